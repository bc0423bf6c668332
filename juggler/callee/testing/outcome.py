"""The outcome of a call: the answer of its function, and the exception that it raised."""

from __future__ import annotations

from typing import Any, NamedTuple

from juggler.callee.answer import Answer
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Res
from juggler.protocol.results import result_value


class Outcome(NamedTuple):
    """The answer of a function, and the exception that it raised, if any."""

    uri: str
    answer: Answer
    raised: BaseException | None

    def value(self) -> Any:
        """Return the result, or raise the error as a client would. Its cause is the exception."""
        result = Res(for_=new_uuid(), uri=self.uri, args=self.answer.args, failed=self.answer.failed)
        if self.raised is None:
            return result_value(result)
        try:
            result_value(result)
        except Exception as failure:
            raise failure from self.raised
        raise AssertionError("an error was encoded as a result")
