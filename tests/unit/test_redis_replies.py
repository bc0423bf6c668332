"""What error replies of Redis mean."""

from __future__ import annotations

import hiredis
import pytest

from juggler.broker.redis import replies
from juggler.broker.redis.cluster.slot_map import Redirection, redirection
from juggler.errors import BrokerError, BrokerUnavailable

ERRORS = {
    replies.is_forbidden: ["NOPERM User limited has no permissions to run the 'get' command"],
    replies.is_no_list: ["WRONGTYPE Operation against a key holding the wrong kind of value"],
    replies.is_not_master: [
        "READONLY You can't write against a read only replica.",
        "LOADING Redis is loading",
        "UNBLOCKED",
    ],
    replies.is_unknown_script: ["NOSCRIPT No matching script."],
    replies.is_unsettled: [
        "MOVED 3999 127.0.0.1:6381",
        "ASK 3999 127.0.0.1:6381",
        "CLUSTERDOWN",
        "TRYAGAIN Multiple keys",
    ],
}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_each_error_has_one_meaning(kind):
    for meaning, texts in ERRORS.items():
        for text in texts:
            assert kind(hiredis.ReplyError(f"{text} …")) == (kind is meaning)


@pytest.mark.parametrize("reply", [None, 1, b"NOPERM ", [b"MOVED "], BrokerUnavailable("NOPERM ")])
def test_other_replies_are_no_errors_of_redis(reply):
    assert not any(kind(reply) for kind in ERRORS)


def test_errors_become_broker_errors():
    lost = BrokerUnavailable("lost")
    assert replies.as_error(lost) is lost
    moved = replies.as_error(hiredis.ReplyError("MOVED 1 host:1"))
    assert isinstance(moved, BrokerUnavailable)
    refused = replies.as_error(hiredis.ReplyError("ERR unknown command"))
    assert type(refused) is BrokerError
    assert refused.reason == "Redis refused the request", "clients see no text of Redis"
    assert str(refused) == "Redis refused the request: ERR unknown command"


@pytest.mark.parametrize("code", ["OOM", "MISCONF", "NOREPLICAS", "BUSY", "READONLY", "LOADING", "CLUSTERDOWN"])
def test_what_is_refused_for_now_is_unavailable(code):
    assert replies.as_error(hiredis.ReplyError(f"{code} not now")).code == 503


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirection(3999, ("127.0.0.1", 6381), False)),
        ("ASK 1 host.example:6381", Redirection(1, ("host.example", 6381), True)),
        ("MOVED 1 ::1:6381", Redirection(1, ("::1", 6381), False)),
        # Without a host, it is that of the node which replied.
        ("MOVED 1 :6381", Redirection(1, ("asked", 6381), False)),
        ("CLUSTERDOWN Hash slot not served", None),
    ],
)
def test_redirections(text, expected):
    assert redirection(hiredis.ReplyError(text), ("asked", 1)) == expected
