"""The Redis broker: all three roles, over at most three connections for a server, two for a callee."""

from juggler.broker.redis.broker import RedisBroker
from juggler.broker.redis.patience import DEFAULT_URL, wait_for
from juggler.broker.redis.url import masked

__all__ = ["DEFAULT_URL", "RedisBroker", "masked", "wait_for"]
