"""Settings: sources, precedence, conversion and errors."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from juggler.callee.worker import Worker
from juggler.cli.config.load import given, load, source_of
from juggler.cli.config.table import BY_KEY, SETTINGS, show
from juggler.server.options import ServerOptions
from juggler.server.websocket import WebSocketOptions
from tests.docs import DOCS

FILE = """
[server]
max_calls = 5
call_timeout = 3   # an integer is a valid number
max_connections = false

[redis]
url = "redis://h"
[http]
allow_origins = ["https://a.example", "*"]
"""


def loaded(*args, **kwargs):
    settings, errors = load(*args, **kwargs)
    assert not errors
    return settings


def test_flags_override_variables_which_override_the_file():
    environ = {"JUGGLER_SERVER_MAX_CALLS": "6", "JUGGLER_SERVER_MAX_WAITING": "7", "JUGGLER_URL": "ws://x", "HOME": "/"}
    settings = loaded(FILE, "j.toml", environ, {"server.max_waiting": "8", "server.max_unanswered": None})
    shown = {key: (settings.value(key), source) for key, source in settings.sources.items()}
    assert shown == {
        "server.max_calls": (6, "JUGGLER_SERVER_MAX_CALLS"),
        "server.call_timeout": (3.0, "j.toml line 4"),
        "server.max_connections": (None, "j.toml line 5"),
        "server.max_waiting": (8, "--max-waiting"),
        "redis.url": ("redis://h", "j.toml line 8"),
        "http.allow_origins": (("https://a.example", "*"), "j.toml line 10"),
    }
    assert settings.server.max_unanswered == 256
    assert source_of(settings, "server.max_unanswered") == "default"


def test_common_variables_have_the_lowest_precedence():
    assert loaded(environ={"REDIS_URL": "redis://a"}).redis.url == "redis://a"
    assert loaded(environ={"REDIS_URL": "redis://a", "JUGGLER_REDIS_URL": "redis://b"}).redis.url == "redis://b"
    assert loaded(environ={"REDIS_URL": ""}).redis.url is None
    assert given(loaded(environ={"REDIS_URL": "redis://a"}), ["redis"]) == []
    assert given(loaded(environ={"JUGGLER_REDIS_URL": "redis://a"}), ["redis"]) == ["JUGGLER_REDIS_URL"]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("server.max_connections", "none", None),
        ("websocket.ping_interval", "off", None),
        ("websocket.ping_interval", "0.5", 0.5),
        ("http.metrics", "no", False),
        ("listen.path", "/a, /b", ("/a", "/b")),
        ("redis.call_capacity", "0", 0),
        ("server.write_limit", " 1_000 ", 1000),
        ("server.list_uri", "none", None),
        ("redis.key_prefix", "1", "1"),
        ("http.allow_origins", "", ()),
        ("websocket.max_fragments", "auto", "auto"),
        ("websocket.max_fragments", "12", 12),
        ("websocket.max_fragments", "none", None),
    ],
)
def test_text_of_variables_is_converted(key, text, value):
    assert loaded(flags={key: text}).value(key) == value
    assert loaded(environ={BY_KEY[key].variables[-1]: text}).value(key) == value


@pytest.mark.parametrize(
    ("text", "environ", "error"),
    [
        (
            "[server]\nmax_call = 1",
            {},
            "[server] max_call: unknown key; did you mean max_calls? (j.toml line 2)",
        ),
        (
            "[server]\nread_limt = 1",
            {},
            "config: [server] read_limt: unknown key; did you mean read_limit? It belongs in [websocket]. "
            "(j.toml line 2)",
        ),
        ("[server]\nzzzzzzzz = 1", {}, "config: [server] zzzzzzzz: unknown key (j.toml line 2)"),
        ("\n[sever]", {}, "config: [sever]: unknown group; did you mean server? (j.toml line 2)"),
        ("server = 1", {}, "config: [server]: expected a table, got 1 (j.toml line 1)"),
        ("[server\n", {}, "config: j.toml: Expected ']' at the end of a table declaration (at line 1, column 8)"),
        (
            "server.max_calls = '5'",
            {},
            "config: [server] max_calls: expected an integer greater than 0, got '5' (j.toml line 1)",
        ),
        (
            "[server]\nmax_calls = true",
            {},
            "config: [server] max_calls: expected an integer greater than 0, got True (j.toml line 2)",
        ),
        ("[server]\nmax_calls = false", {}, "[server] max_calls: expected an integer greater than 0, got False"),
        (
            "[websocket]\nread_timeout = -1.5",
            {},
            "[websocket] read_timeout: expected a number greater than 0, or none, got -1.5",
        ),
        (
            "[listen]\npath = [1]",
            {},
            "config: [listen] path: expected one or more paths, each starting with /, got [1] (j.toml line 2)",
        ),
        ("[http]\nallow_origins = [1]", {}, "[http] allow_origins: expected a list of strings, got [1]"),
        (
            "[websocket]\nmax_fragments = 'all'",
            {},
            "[websocket] max_fragments: expected an integer greater than 0, auto, or none, got 'all'",
        ),
        ("[listen]\nbind = 9000", {}, "[listen] bind: expected a string, got 9000"),
        (
            "[listen]\nbind = '9000'",
            {},
            "[listen] bind: expected HOST:PORT, such as 127.0.0.1:9000 or [::1]:9000, got '9000' (j.toml line 2)",
        ),
        (
            "",
            {"JUGGLER_SERVER_MAX_CALLS": "many"},
            "config: [server] max_calls: expected an integer greater than 0, got 'many' (JUGGLER_SERVER_MAX_CALLS)",
        ),
        (
            "",
            {"JUGGLER_SERVER_CALL_TIMEOUT": "nan"},
            "[server] call_timeout: expected a number greater than 0, got 'nan' (JUGGLER_SERVER_CALL_TIMEOUT)",
        ),
        (
            "",
            {"JUGGLER_SERVER_CALL_TIMEOUT": "inf"},
            "call_timeout: expected a number greater than 0, got 'inf'",
        ),
        ("", {"JUGGLER_HTTP_METRICS": "maybe"}, "expected true or false, got 'maybe' (JUGGLER_HTTP_METRICS)"),
        ("", {"JUGGLER_LOG_LEVEL": "loud"}, "[log] level: expected one of debug, info, warning, error, got 'loud'"),
        (
            "",
            {"JUGGLER_SERVER_MAX_CALL": "1"},
            "config: JUGGLER_SERVER_MAX_CALL: unknown variable; did you mean JUGGLER_SERVER_MAX_CALLS?",
        ),
        (
            "[redis]\nurl = 'redis://a'",
            {"JUGGLER_REDIS_CALLER_URL": "redis://b", "JUGGLER_REDIS_PUBSUB_URL": "redis://c"},
            "config: [redis] caller_url: conflicts with url (j.toml line 2); set url, or caller_url and pubsub_url "
            "(JUGGLER_REDIS_CALLER_URL)",
        ),
        ("[redis]\ncaller_url = 'redis://a'", {}, "config: [redis] caller_url: needs pubsub_url"),
        ("[redis]\nsharded_pubsub = true", {}, "config: [redis] sharded_pubsub: needs a Redis Cluster"),
        (
            "[server]\nmax_call_timeout = 5",
            {},
            "config: [server] max_call_timeout: 5 s is less than call_timeout, 60 s (j.toml line 2)",
        ),
        (
            "[server]\ncall_timeout = 1e6",
            {},
            "config: [server] call_timeout: 1e+06 s exceeds max_call_timeout, 600 s (j.toml line 2)",
        ),
        ("[listen]\npath = []", {}, "[listen] path: expected one or more paths, each starting with /, got []"),
        ("", {"JUGGLER_LISTEN_PATH": ","}, "one or more paths, each starting with /, got ',' (JUGGLER_LISTEN_PATH)"),
        ("", {"JUGGLER_REDIS_KEY_PREFIX": "{x}"}, "[redis] key_prefix: expected a string without braces, got '{x}'"),
        (
            "[server]\nmax_call_timeout = 1e6",
            {},
            "[server] max_call_timeout: expected a number greater than 0 and at most 86400, got 1000000.0",
        ),
    ],
)
def test_an_error_names_key_value_and_source(text, environ, error):
    _, errors = load(text, "j.toml", environ)
    assert len(errors) == 1
    assert error in errors[0]


def test_all_errors_are_reported_and_valid_settings_kept():
    settings, errors = load("[server]\nmax_calls = 0\nmax_waiting = 3", "j.toml", {"JUGGLER_LOG_FORMAT": "xml"})
    assert len(errors) == 2
    assert settings.server.max_waiting == 3


def test_defaults_are_those_of_server_and_websocket_options():
    server = {field.name: field.default for field in fields(ServerOptions)}
    websocket = {field.name: field.default for field in fields(WebSocketOptions)}
    for setting in SETTINGS:
        if setting.group == "server":
            assert setting.default == server[setting.name], setting.key
        if setting.group == "websocket" and setting.name != "deflate":
            assert setting.default == websocket[setting.name], setting.key


def test_flags_and_variables_are_unique():
    assert len({setting.flag for setting in SETTINGS}) == len(SETTINGS)
    variables = [variable for setting in SETTINGS for variable in setting.variables]
    assert len(set(variables)) == len(variables)


def test_one_connection_takes_at_most_half_of_the_workers_of_a_callee_by_default():
    assert ServerOptions().max_calls * 2 <= inspect.signature(Worker).parameters["concurrency"].default


def table() -> str:
    """Return the table of docs/configuration.md."""
    rows = ["| Key | Flag | Default | Description |", "|---|---|---|---|"]
    for setting in SETTINGS:
        rows.append(f"| `{setting.key}` | `{setting.flag}` | {show(setting.default) or '(empty)'} | {setting.help} |")
    return "\n".join(rows) + "\n"


def test_the_documentation_has_every_setting():
    assert table() in (DOCS / "configuration.md").read_text()


def test_no_error_contains_a_password():
    _, errors = load("[redis]\nurl = ['redis://:s3cret@h']", "j.toml")
    assert errors == ["config: [redis] url: expected a string, or none (j.toml line 2)"]
    _, errors = load("redis = 'redis://:s3cret@h'", "j.toml")
    assert errors == ["config: [redis]: expected a table (j.toml line 1)"]


# Kubernetes 1.34, for services juggler-server and juggler-http with a port named websockets.
SERVICE_LINKS = {
    "JUGGLER_SERVER_SERVICE_HOST": "10.0.0.1",
    "JUGGLER_SERVER_SERVICE_PORT": "80",
    "JUGGLER_SERVER_SERVICE_PORT_WEBSOCKETS": "80",
    "JUGGLER_SERVER_PORT": "tcp://10.0.0.1:80",
    "JUGGLER_SERVER_PORT_80_TCP": "tcp://10.0.0.1:80",
    "JUGGLER_SERVER_PORT_80_TCP_PROTO": "tcp",
    "JUGGLER_SERVER_PORT_80_TCP_PORT": "80",
    "JUGGLER_HTTP_PORT_80_TCP_ADDR": "10.0.0.1",
}


def test_variables_that_kubernetes_sets_for_services_are_ignored():
    assert load(environ=SERVICE_LINKS) == load()
    assert len(load(environ=dict.fromkeys(("JUGGLER_SERVER_PORTS", "JUGGLER_SERVER_HOST"), "1"))[1]) == 2
