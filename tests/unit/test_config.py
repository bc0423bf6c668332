"""Settings: where they come from, which counts, and what is said of those that are wrong."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from juggler.cli.config.load import load, read
from juggler.cli.config.table import BY_KEY, SETTINGS
from juggler.errors import ConfigError
from juggler.server import Server
from juggler.server.websocket import WebSocketOptions
from tests.docs import DOCS

FILE = """
[server]
max_calls = 5
call_timeout = 3   # a whole number is a number, too
max_connections = false

[redis]
url = "redis://h"
[http]
allow_origins = ["https://a.example", "*"]
"""


def test_flags_count_before_variables_and_these_before_the_file():
    environ = {"JUGGLER_SERVER_MAX_CALLS": "6", "JUGGLER_SERVER_MAX_WAITING": "7", "JUGGLER_URL": "ws://x", "HOME": "/"}
    settings = load(FILE, "j.toml", environ, {"server.max_waiting": "8", "server.max_unanswered": None})
    shown = {key: value for key, value in settings.values.items() if value.is_given}
    assert shown == {
        "server.max_calls": (6, "JUGGLER_SERVER_MAX_CALLS"),
        "server.call_timeout": (3.0, "j.toml line 4"),
        "server.max_connections": (None, "j.toml line 5"),
        "server.max_waiting": (8, "--max-waiting"),
        "redis.url": ("redis://h", "j.toml line 8"),
        "http.allow_origins": (("https://a.example", "*"), "j.toml line 10"),
    }
    assert settings["server.max_unanswered"] == 256


def test_older_variables_count_too_but_less():
    assert load(environ={"REDIS_URL": "redis://a"})["redis.url"] == "redis://a"
    assert load(environ={"REDIS_URL": "redis://a", "JUGGLER_REDIS_URL": "redis://b"})["redis.url"] == "redis://b"
    assert load(environ={"REDIS_URL": ""})["redis.url"] is None
    assert load(environ={"REDIS_URL": "redis://a"}).given(["redis"]) == []
    assert load(environ={"JUGGLER_REDIS_URL": "redis://a"}).given(["redis"]) == ["JUGGLER_REDIS_URL"]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("server.max_connections", "none", None),
        ("websocket.ping_interval", "off", None),
        ("websocket.ping_interval", "0.5", 0.5),
        ("http.metrics", "no", False),
        ("listen.path", "/a, /b", ("/a", "/b")),
        ("redis.call_capacity", "0", 0),
    ],
)
def test_texts_of_variables_become_values(key, text, value):
    assert load(environ={BY_KEY[key].variable: text})[key] == value


@pytest.mark.parametrize(
    ("text", "environ", "error"),
    [
        ("[server]\nmax_call = 1", {}, "j.toml line 2: unknown 'server.max_call', do you mean 'server.max_calls'?"),
        ("\n[sever]", {}, "j.toml line 2: unknown 'sever', do you mean 'server'?"),
        ("server = 1", {}, "j.toml line 1: server: expected a table, got 1"),
        ("[server\n", {}, "j.toml: Expected ']' at the end of a table declaration (at line 1, column 8)"),
        (
            "server.max_calls = '5'",
            {},
            "j.toml line 1: server.max_calls: expected a whole number, more than 0, got '5'",
        ),
        (
            "[server]\nmax_calls = true",
            {},
            "j.toml line 2: server.max_calls: expected a whole number, more than 0, got True",
        ),
        ("[server]\nmax_calls = false", {}, "server.max_calls: expected a whole number, more than 0, got False"),
        ("[websocket]\nread_timeout = -1.5", {}, "expected a number, more than 0, or none, got -1.5"),
        ("[listen]\npath = [1]", {}, "j.toml line 2: listen.path: expected strings in a list, got [1]"),
        ("[listen]\nbind = 9000", {}, "listen.bind: expected a string, got 9000"),
        (
            "",
            {"JUGGLER_SERVER_MAX_CALLS": "many"},
            "JUGGLER_SERVER_MAX_CALLS: expected a whole number, more than 0, got 'many'",
        ),
        ("", {"JUGGLER_SERVER_CALL_TIMEOUT": "nan"}, "JUGGLER_SERVER_CALL_TIMEOUT: expected a number, more than 0"),
        ("", {"JUGGLER_SERVER_CALL_TIMEOUT": "inf"}, "JUGGLER_SERVER_CALL_TIMEOUT: expected a number, more than 0"),
        ("", {"JUGGLER_HTTP_METRICS": "maybe"}, "JUGGLER_HTTP_METRICS: expected true or false, got 'maybe'"),
        ("", {"JUGGLER_LOG_LEVEL": "loud"}, "expected one of debug, info, warning, error, got 'loud'"),
        (
            "",
            {"JUGGLER_SERVER_MAX_CALL": "1"},
            "unknown 'JUGGLER_SERVER_MAX_CALL', do you mean 'JUGGLER_SERVER_MAX_CALLS'?",
        ),
        (
            "[redis]\nurl = 'redis://a'",
            {"JUGGLER_REDIS_CALLER_URL": "redis://b", "JUGGLER_REDIS_PUBSUB_URL": "redis://c"},
            "JUGGLER_REDIS_CALLER_URL: redis.caller_url contradicts redis.url (j.toml line 2): one Redis",
        ),
        ("[redis]\ncaller_url = 'redis://a'", {}, "j.toml line 2: redis.caller_url needs redis.pubsub_url"),
        ("[redis]\nsharded_pubsub = true", {}, "j.toml line 2: redis.sharded_pubsub needs a Redis Cluster"),
        (
            "[server]\nmax_call_timeout = 5",
            {},
            "j.toml line 2: server.call_timeout (60 s) is over server.max_call_timeout (5 s)",
        ),
        ("[listen]\npath = []", {}, "j.toml line 2: listen.path: expected at least one, got []"),
        ("", {"JUGGLER_LISTEN_PATH": ","}, "JUGGLER_LISTEN_PATH: expected at least one, got ','"),
        ("", {"JUGGLER_REDIS_KEY_PREFIX": "{x}"}, "JUGGLER_REDIS_KEY_PREFIX: expected no braces"),
        ("[server]\nmax_call_timeout = 1e6", {}, "expected at most 86400 s, got 1e+06"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text, environ, error):
    with pytest.raises(ConfigError) as failure:
        load(text, "j.toml", environ)
    assert error in str(failure.value)


def test_all_errors_are_found_at_once_and_the_rest_is_kept():
    settings, errors = read("[server]\nmax_calls = 0\nmax_waiting = 3", "j.toml", {"JUGGLER_LOG_FORMAT": "xml"})
    assert len(errors) == 2
    assert settings["server.max_waiting"] == 3


def test_each_setting_has_the_default_of_what_it_is_for():
    server = inspect.signature(Server).parameters
    websocket = {field.name: field.default for field in fields(WebSocketOptions)}
    for setting in SETTINGS:
        if setting.group == "server":
            assert setting.default == server[setting.name].default, setting.key
        if setting.group == "websocket" and setting.name != "deflate":
            assert setting.default == websocket[setting.name], setting.key


def test_flags_and_variables_are_unique():
    assert len({setting.flag for setting in SETTINGS}) == len(SETTINGS)
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)


def table() -> str:
    """Return the table of docs/configuration.md."""
    rows = ["| key | flag | default | what |", "|---|---|---|---|"]
    for setting in SETTINGS:
        rows.append(f"| `{setting.key}` | `{setting.flag}` | {setting.shown_default or '(empty)'} | {setting.help} |")
    return "\n".join(rows) + "\n"


def test_the_documentation_has_them_all():
    assert table() in (DOCS / "configuration.md").read_text()


def test_what_may_be_a_password_is_in_no_error():
    _, errors = read("[redis]\nurl = ['redis://:s3cret@h']", "j.toml")
    assert errors == ["j.toml line 2: redis.url: expected a string, got something else"]
    _, errors = read("redis = 'redis://:s3cret@h'", "j.toml")
    assert errors == ["j.toml line 1: redis: expected a table, got something else"]
