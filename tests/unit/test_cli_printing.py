"""Errors of functions as one line of a terminal."""

from __future__ import annotations

import pytest

from juggler.cli.printing import describe
from juggler.errors import CallFailed
from juggler.protocol.messages import Res
from juggler.protocol.results import result_value


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (b'{"error":{"message":"no tea","type":"CallError"}}', "CallError: no tea"),
        (
            b'{"error":{"message":"no tea","type":"CallError","code":418,"data":{"left":0}}}',
            'CallError: no tea, code 418, data {"left": 0}',
        ),
        (b'{"reason":"no tea"}', '{"reason":"no tea"}'),
        (b'{"error":{"message":"a\\nb","type":"X"}}', r"X: a\nb"),
    ],
)
def test_an_error_is_described_once(args: bytes, expected: str) -> None:
    with pytest.raises(CallFailed) as failed:
        result_value(Res(for_="", uri="f", args=args, failed=True))

    assert describe(failed.value) == expected
