"""The Redis broker: all three roles, over at most three connections for a server, two for a callee."""

from juggler.broker.redis.broker import RedisBroker
from juggler.broker.redis.url import masked

__all__ = ["RedisBroker", "masked"]
