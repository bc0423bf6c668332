"""Functions that use Django's ORM, with the connections to the database closed around each call.

Run them with ``juggler-callee examples.backends.django_callees:rpc``.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db import close_old_connections

from callee import Callee

# In a project: set DJANGO_SETTINGS_MODULE, and call django.setup() before the models are imported.
from examples.backends.django_app import Order

rpc = Callee()


@rpc.around
def connections_closed() -> Iterator[None]:
    """Close connections that are broken or older than CONN_MAX_AGE (0), as Django does around each request."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


@rpc.register("orders.count")
def count(name: str) -> int:
    return Order.objects.filter(name=name).count()


# SQLite blocks without gevent's knowledge, so longer queries run in threads.
@rpc.register("orders.names", pool="thread")
def names() -> list[str]:
    return list(Order.objects.order_by("pk").values_list("name", flat=True))
