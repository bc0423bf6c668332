"""Programs without a server of their own that publish and call: Flask, Django, FastAPI, a worker, a cron job."""
