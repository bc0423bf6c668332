"""gunicorn -c gunicorn.conf.py app:application"""

import os

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WORKERS", "2"))
worker_class = "juggler.worker.GeventWorker"
# Sockets of one worker; as many as Server(max_connections=...) lets in, or more.
worker_connections = 10_000
# Connections that wait to be accepted; net.core.somaxconn has to be as high.
backlog = 2048
# Calls under way have this long, less a second, when a worker is stopped.
graceful_timeout = 30
accesslog = "-"
# Each worker loads the application itself, so that HUP loads a new one.
preload_app = False
# A socket for gunicornc would be put into the home directory, which the unit protects.
control_socket_disable = True
