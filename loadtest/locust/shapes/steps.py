"""``locust -f loadtest/locustfile.py,loadtest/locust/shapes/steps.py …``: see `juggler.locust.shapes.Steps`."""

from juggler.locust import Steps

__all__ = ["Steps"]
