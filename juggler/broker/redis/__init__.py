"""The Redis broker: all three roles, with at most three connections in a server and two in a callee."""

from juggler.broker.redis.broker import DEFAULT_URL, RedisBroker, connect_or_wait
from juggler.broker.redis.url import masked

__all__ = ["DEFAULT_URL", "RedisBroker", "connect_or_wait", "masked"]
