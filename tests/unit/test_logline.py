"""A log line: the event, then key=value, in every format."""

from __future__ import annotations

import json
import logging

import pytest

from juggler.process import logs
from juggler.process.logline import Line

LINE = Line("redis: connection lost", link="commands", retry_in=0.41234567, attempt=3, error=OSError('no "route"\n'))


def formatted(format: str, line: object) -> str:
    record = logging.LogRecord("juggler.redis", logging.WARNING, __file__, 1, line, None, None)
    return logs.formatter(format).format(record)


def test_plain_logging_shows_the_details() -> None:
    expected = 'redis: connection lost link=commands retry_in=0.4123 attempt=3 error="no \\"route\\"\\n"'

    assert str(LINE) == logging.Formatter().format(logging.makeLogRecord({"msg": LINE})) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ("é", "é"),
        (None, "None"),
        (True, "True"),
        (0.0, "0.0"),
    ],
)
def test_values_are_quoted_where_they_must(value: object, text: str) -> None:
    assert str(Line("e", key=value)) == f"e key={text}"


def test_details_are_fields_in_json() -> None:
    written = json.loads(formatted("json", LINE))

    assert written["event"] == "redis: connection lost"
    assert (written["link"], written["retry_in"], written["attempt"]) == ("commands", 0.4123, 3)
    assert written["error"] == 'no "route"\n'


@pytest.mark.parametrize("format", ["text", "logfmt"])
def test_the_other_formats_show_the_details_once(format: str) -> None:
    text = formatted(format, LINE)

    assert text.count("link=commands") == text.count("attempt=3") == 1


def test_messages_of_other_loggers_stay_as_they_are() -> None:
    assert json.loads(formatted("json", "plain text"))["event"] == "plain text"


def test_nothing_is_formatted_that_no_handler_wants() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("was formatted")

    logging.getLogger("juggler.test-logline").debug(Line("e", key=Costly()))
