"""Programs that publish and call without a server of their own: a Flask application, a worker, a cron job."""
