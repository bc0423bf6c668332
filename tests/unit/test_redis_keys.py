"""Names in Redis: those of the protocol, all of them with the prefix."""

from __future__ import annotations

import pytest

from juggler.broker.redis.keys import Names
from juggler.protocol.glob import matches


def test_names_are_those_of_the_protocol():
    names = Names()
    assert names.calls("a.b") == b"juggler:calls:{a.b}"
    assert names.call_timeout("a.b", "m") == b"juggler:calls:timeout:{a.b}:m"
    assert names.results("c") == b"juggler:results:{c}"
    assert names.result_timeout("c", "m") == b"juggler:results:timeout:{c}:m"
    assert names.servers == b"juggler:servers"
    assert names.server("s") == b"juggler:server:{s}"
    assert names.control("s") == b"juggler:control:{s}"
    assert names.replies("r") == b"juggler:replies:{r}"
    assert (names.channel("news"), names.pattern("n*")) == (b"news", b"n*")


def test_all_names_begin_with_the_prefix():
    names = Names("shop:")
    assert names.calls("a") == b"shop:juggler:calls:{a}"
    assert names.call_timeout("a", "m") == b"shop:juggler:calls:timeout:{a}:m"
    assert names.results("c") == b"shop:juggler:results:{c}"
    assert names.result_timeout("c", "m") == b"shop:juggler:results:timeout:{c}:m"
    assert names.channel("ü") == "shop:ü".encode()
    assert names.channel_of(names.channel("ü")) == "ü"


def test_a_prefix_means_itself_in_a_pattern():
    names = Names("a*?[b]^-\\")
    pattern = names.pattern("n*")
    assert matches(pattern.decode(), names.channel("news").decode())
    assert not matches(pattern.decode(), "axxb^-\\news")
    assert names.pattern_of(pattern) == "n*"


@pytest.mark.parametrize("prefix", ["{a}", "{", "}"])
def test_braces_are_refused(prefix):
    with pytest.raises(ValueError, match="key_prefix: expected no braces"):
        Names(prefix)


def test_a_prefix_that_is_not_unicode_is_refused():
    with pytest.raises(ValueError, match="surrogates"):
        Names("\ud800")
