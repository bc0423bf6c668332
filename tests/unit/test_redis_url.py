"""Valid and invalid URLs, and that no password is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juggler.broker.redis.url import RedisUrl, masked, parse
from juggler.errors import ConfigError

UNDERSTOOD = {
    "redis://localhost": RedisUrl("redis", False, (("localhost", 6379),), "", "", {}, {}, ""),
    "redis://10.0.0.1:7000/3": RedisUrl("redis", False, (("10.0.0.1", 7000),), "", "", {"db": 3}, {}, ""),
    "redis://h/?db=2": RedisUrl("redis", False, (("h", 6379),), "", "", {"db": 2}, {}, ""),
    "redis://[::1]:7000": RedisUrl("redis", False, (("::1", 7000),), "", "", {}, {}, ""),
    "redis://:s%2Fe%25c@h": RedisUrl("redis", False, (("h", 6379),), "", "", {"password": "s/e%c"}, {}, ""),
    "redis://me:s@/e#c@h": RedisUrl(
        "redis", False, (("h", 6379),), "", "", {"username": "me", "password": "s@/e#c"}, {}, ""
    ),
    "redis://h?client_name=web&socket_keepalive=yes": RedisUrl(
        "redis", False, (("h", 6379),), "", "", {"client_name": "web", "socket_keepalive": True}, {}, ""
    ),
    "rediss://h:7000?ssl_ca_certs=/dev/null&ssl_check_hostname=no&ssl_cert_reqs=none": RedisUrl(
        "redis",
        True,
        (("h", 7000),),
        "",
        "",
        {"ssl_ca_certs": "/dev/null", "ssl_check_hostname": False, "ssl_cert_reqs": "none"},
        {},
        "",
    ),
    "unix:///run/a@b/redis.sock": RedisUrl("unix", False, (), "/run/a@b/redis.sock", "", {}, {}, ""),
    "unix://me:secret@/r%20s?db=1": RedisUrl(
        "unix", False, (), "/r s", "", {"db": 1, "username": "me", "password": "secret"}, {}, ""
    ),
    "unix:///r?password=secret": RedisUrl("unix", False, (), "/r", "", {"password": "secret"}, {}, ""),
    "redis+sentinel://a/m": RedisUrl("sentinel", False, (("a", 26379),), "", "m", {}, {}, ""),
    "rediss+sentinel://me:secret@a:1,[::1]:2,c/my%20m/4?sentinel_username=s&sentinel_password=other": RedisUrl(
        "sentinel",
        True,
        (("a", 1), ("::1", 2), ("c", 26379)),
        "",
        "my m",
        {"db": 4, "username": "me", "password": "secret"},
        {"username": "s", "password": "other"},
        "",
    ),
    "redis+cluster://a:1,b": RedisUrl("cluster", False, (("a", 1), ("b", 6379)), "", "", {}, {}, ""),
}

WRONG = {
    "": "expected a scheme of redis, rediss, unix, redis+sentinel,",
    "localhost:6379": "expected a scheme",
    "http://localhost": "expected a scheme",
    "REDIS://localhost": "expected a scheme",
    "redis:/localhost": "expected a scheme",
    "redis://": "expected host or host:port",
    "redis://:6379": "expected host or host:port",
    "redis://h:port": "expected host or host:port",
    "redis://h o": "expected host or host:port",
    "redis://[::1": "expected host or host:port",
    "redis://h:0": "port: expected 1 to 65535",
    "redis://h:65536": "port: expected 1 to 65535",
    "redis://a,b": "expected one host; several are for redis+sentinel://",
    "redis://h/one": "database: expected a number of 0 or more",
    "redis://h/-1": "database: expected a number",
    "redis://h/1?db=2": "db is given twice",
    "redis://h?db=1&db=1": "db is given twice",
    "redis://h?db=one": "option db: expected a number of 0 or more",
    "redis://h?db=": "option db: expected a number",
    "redis://h?client_name=": "option client_name: expected a value",
    "redis://h?socket_keepalive=maybe": "option socket_keepalive: expected true or false",
    "redis://h?max_connections=5": "unknown option 'max_connections'; redis:// knows client_name, db, password,",
    "redis://h?decode_responses=true": "unknown option 'decode_responses'",
    "redis://h?ssl_ca_certs=/dev/null": "unknown option 'ssl_ca_certs'; redis:// knows client_name",
    "redis://h?db": "expected option=value pairs",
    "redis://me@h": "expected user:password or :password before the @",
    "redis://:a@h?password=b": "password is given twice",
    "rediss://h?ssl_ca_certs=/no/such/file": "option ssl_ca_certs: expected a file or directory that can be read",
    "rediss://h?ssl_cert_reqs=maybe": "option ssl_cert_reqs: expected none, optional or required",
    "unix://run/redis.sock": "expected an absolute path, as in unix:///run/redis.sock",
    "unix://": "expected an absolute path",
    "unix:///r?ssl_ca_certs=x": "unknown option 'ssl_ca_certs'; unix:// knows client_name, db, password, username",
    "redis+sentinel://a": "expected the service's name after the hosts, as in redis+sentinel://host:26379/mymaster",
    "redis+sentinel://a//0": "expected the service's name",
    "redis+sentinel://a,/m": "expected host or host:port",
    "redis+sentinel://a/m/x": "database: expected a number",
    "redis+sentinel://a/m?sentinel_passwd=x": "unknown option 'sentinel_passwd'",
    "redis+cluster://a/0": "expected nothing after the hosts: a cluster has one database",
    "redis+cluster://a?db=0": "unknown option 'db'",
}


@pytest.mark.parametrize("url", UNDERSTOOD)
def test_valid_urls(url):
    assert parse(url)._replace(shown="") == UNDERSTOOD[url]


@pytest.mark.parametrize("url", WRONG)
def test_errors_name_the_invalid_part(url):
    with pytest.raises(ConfigError) as error:
        parse(url)
    assert str(error.value).startswith(f"Redis URL {masked(url)!r}: {WRONG[url]}")


def test_tls_verifies_by_default():
    assert not {"ssl_cert_reqs", "ssl_check_hostname"} & set(parse("rediss://h").options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@h:1", "redis://:***@h:1"),
        ("redis://me:secret@h/1?db=1", "redis://me:***@h/1?db=1"),
        ("redis://secret@h", "redis://***@h"),
        ("redis://me:sec@ret@h", "redis://me:***@h"),
        ("redis://me:sec/ret@h", "redis://me:***@h"),
        ("redis://me:sec?ret@h", "redis://***"),
        ("redis://me:sec?db=ret@h", "redis://***"),
        ("redis://me:secret", "redis://***"),
        ("redis://:secret", "redis://***"),
        ("redis:secret@h", "***"),
        ("me:secret@h", "***"),
        ("secret", "***"),
        ("secret://h", "secret://h"),
        ("sec:ret://h", "***"),
        ("http://me:secret@h", "http://me:***@h"),
        ("redis://h?password=secret", "redis://h?***"),
        ("redis://h?pass=secret", "redis://h?***"),
        ("redis://h?%70assword=secret", "redis://h?***"),
        ("redis://h?db=1;password=secret", "redis://h?***"),
        ("unix:///run/r.sock?db=1", "unix:///run/r.sock?db=1"),
        ("unix://me:secret@/run/r.sock", "unix://me:***@/run/r.sock"),
        ("unix://:secret/run/r.sock", "unix://***"),
        (
            "redis+sentinel://me:secret@a:1,b:2/m/0?sentinel_password=secret",
            "redis+sentinel://me:***@a:1,b:2/m/0?***",
        ),
        ("rediss+cluster://me:secret@a:1,b:2?ssl_password=secret", "rediss+cluster://me:***@a:1,b:2?***"),
    ],
)
def test_masking(url, shown):
    assert masked(url) == shown


FORMS = [
    "redis://:{}@host:6379",
    "redis://user:{}@host",
    "rediss://user:{}@host:6379/0?db=1",
    "redis://user:{}",
    "unix://:{}@/run/redis.sock",
    "unix:///run/redis.sock?password={}",
    "redis+sentinel://:{}@a:1,b:2/m/0",
    "redis+sentinel://a:1,b:2/m?sentinel_password={}",
    "redis+cluster://user:{}@a,b",
    "redis://host?passwrd={}",
    "user:{}@host",
    ":{}",
]


@given(form=st.sampled_from(FORMS), rest=st.text(alphabet="aZ9 /@?#&=;:%[],.\\\n\0ü", max_size=8))
def test_no_password_is_ever_shown(form, rest):
    # Neither half of a password that contains a separator.
    url = form.format(f"q7X!{rest}!k3Y")
    shown = masked(url)
    try:
        parse(url)
        said = ""
    except ConfigError as error:
        said = str(error)
    for secret in ("q7X!", "!k3Y"):
        assert secret not in shown
        assert secret not in said


def test_a_cluster_may_have_sharded_pubsub():
    assert parse("redis+cluster://a?sharded=1").sharded
    assert not parse("redis+cluster://a").sharded
    with pytest.raises(ConfigError, match="unknown option 'sharded'"):
        parse("redis://a?sharded=1")


def test_a_node_of_a_cluster_has_the_options_of_the_cluster():
    node = parse("rediss+cluster://me:secret@a:1,b:2").at(("c", 3))
    assert (node.kind, node.tls, node.hosts) == ("redis", True, (("c", 3),))
    assert node.options == {"username": "me", "password": "secret"}
