"""gunicorn -c gunicorn.conf.py app:application"""

import os

bind = [os.environ.get("BIND", "127.0.0.1:8000")]
# Address of the metrics, for Prometheus; keep it private.
if "JUGGLER_LISTEN_METRICS_BIND" in os.environ:
    bind.append(os.environ["JUGGLER_LISTEN_METRICS_BIND"])
workers = int(os.environ.get("WORKERS", "2"))
worker_class = "juggler.worker.GeventWorker"
# Maximum websockets per worker, if Server(max_connections=...) is not lower.
worker_connections = 10_000
# Size of the accept queue; net.core.somaxconn must be at least as high.
backlog = 2048
# Seconds to drain calls in flight when a worker stops, plus one.
graceful_timeout = 30
accesslog = "-"
# Without the query and the referrer, which can hold tokens.
access_log_format = '%(h)s %(t)s "%(m)s %(U)s %(H)s" %(s)s %(b)s %(L)s "%(a)s"'
# Each worker imports the application itself, so that SIGHUP reloads it.
preload_app = False
# The socket for gunicornc would be in the home directory, which the systemd unit protects.
control_socket_disable = True
