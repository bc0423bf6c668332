"""``locust -f loadtest/locustfile.py,loadtest/locust/shapes/spike.py …``: see `juggler.locust.shapes.Spike`."""

from juggler.locust import Spike

__all__ = ["Spike"]
