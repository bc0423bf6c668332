"""docs/semantics.md: a call that is repeated with its key runs once, whatever was lost before."""

from __future__ import annotations

import pytest

from juggler.callee.testing import Caller
from juggler.errors import ConnectionClosed, Expired, Nacked
from tests.docs import run_blocks


class Unlucky:
    """A client whose first answers are lost after the function has run, or before."""

    def __init__(self, rpc, errors):
        self._caller = Caller(rpc)
        self._errors = errors
        self.waited = 0

    def call(self, uri, args, timeout):
        result = self._caller.call(uri, args)
        if self._errors:
            raise self._errors.pop(0)
        return result

    def wait_connected(self, timeout):
        self.waited += 1


def test_a_repeated_order_is_one_order():
    page = run_blocks("semantics.md")
    client = Unlucky(page["rpc"], [ConnectionClosed(1006, ""), Expired("shop.order"), Nacked(504, "lost")])
    assert page["order_once"](client, "tea") == 1
    assert (client.waited, len(page["orders"])) == (3, 1)
    assert page["order_once"](client, "tea") == 2


def test_a_refusal_is_not_repeated():
    page = run_blocks("semantics.md")
    with pytest.raises(Nacked):
        page["order_once"](Unlucky(page["rpc"], [Nacked(403, "forbidden")] * 2), "tea")
