"""What a line of the log looks like."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from juggler.process.logline import Line, PlainFormatter
from juggler.process.logs import formatter


def line(format, exc_info=None, **extra):
    record = logging.LogRecord("juggler.x", logging.INFO, "f.py", 1, "got %r", ("a b",), exc_info)
    vars(record).update(extra)
    return formatter(format).format(record)


def test_a_line_of_json_has_everything_by_name():
    fields = json.loads(line("json", connection="c-1"))
    assert fields.pop("timestamp").endswith("Z")
    assert fields == {"event": "got 'a b'", "level": "info", "logger": "juggler.x", "connection": "c-1"}


def test_a_line_of_logfmt_is_key_and_value():
    text = line("logfmt", connection="c-1")
    assert text.startswith("timestamp=")
    assert text.endswith(" level=info logger=juggler.x event=\"got 'a b'\" connection=c-1")


def test_a_line_of_text_is_for_people():
    text = line("text", connection="c-1")
    assert "got 'a b'" in text
    assert "connection=c-1" in text
    assert "\x1b" not in text


def test_fields_come_in_order_and_details_do_not_replace_those_of_every_record():
    record = logging.LogRecord("juggler.x", logging.INFO, "f.py", 1, Line("e", level=1, a=None, b=True), None, None)
    vars(record).update(event="x", c={1}, stack_info="Stack:\n  f")
    record.created = 1e9 + 0.25
    assert formatter("json").format(record) == (
        '{"timestamp": "2001-09-09T01:46:40.250000Z", "level": "info", "logger": "juggler.x", "event": "e", '
        '"a": null, "b": true, "c": "{1}", "stack_info": "Stack:\\n  f"}'
    )
    assert formatter("logfmt").format(record) == (
        "timestamp=2001-09-09T01:46:40.250000Z level=info logger=juggler.x event=e "
        r'a= b=true c={1} stack_info="Stack:\n  f"'
    )
    assert formatter("text").format(record) == (
        "2001-09-09T01:46:40.250000Z [info] e [juggler.x] a=None b=True c={1}\n    Stack:\n      f"
    )


def test_without_an_exception_there_is_no_traceback():
    assert "exception" not in json.loads(line("json", exc_info=(None, None, None)))


@pytest.mark.parametrize("format", ["json", "logfmt"])
def test_a_traceback_stays_on_the_line(format):
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        text = line(format, exc_info=sys.exc_info())
    assert "ZeroDivisionError" in text
    assert "\n" not in text


HOSTILE = "a\n2026-11-27T15:00:00Z [info] forged\r\x1b[2J\x9b31m\x85\u2028\u202e"


def raises_hostile_text():
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize("format", ["text", "logfmt", "json"])
@pytest.mark.parametrize("place", ["message", "argument", "detail", "extra", "exception"])
def test_text_of_clients_cannot_forge_lines_or_control_terminals(format, place):
    made = {
        "message": {"msg": HOSTILE},
        "argument": {"msg": "got %s", "args": (HOSTILE,)},
        "detail": {"msg": Line("call: failed", uri=HOSTILE)},
        "extra": {"msg": "x", "connection": HOSTILE},
        "exception": {"msg": Line("call: failed"), "exc_info": raises_hostile_text()},
    }[place]
    text = formatter(format).format(logging.makeLogRecord(made))
    first, *more = text.split("\n")
    assert all(part.isprintable() for part in (first, *more))
    assert all(part.startswith("    ") for part in more)
    assert "forged" in text
    assert more == [] or (format, place) == ("text", "exception")


def test_tracebacks_cannot_forge_lines_without_configuration():
    record = logging.makeLogRecord({"msg": Line("call: failed", uri=HOSTILE), "exc_info": raises_hostile_text()})
    first, *more = PlainFormatter().format(record).split("\n")
    assert first == str(Line("call: failed", uri=HOSTILE))
    assert all(line.startswith("    ") and line.isprintable() for line in more)
    assert more[-1].endswith("forged\\r\\x1b[2J\\x9b31m\\x85\\u2028\\u202e")


def test_a_detail_of_any_logger_is_quoted():
    assert str(Line("call: failed", uri=HOSTILE)).isprintable()
