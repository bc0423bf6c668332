"""What the result of a call means to its caller. PURE."""

from __future__ import annotations

from typing import Any

from juggler.errors import CallFailed
from juggler.protocol.codec import decode_args, encode_args
from juggler.protocol.messages import Res

_MAX_MESSAGE = 200


def error_result(message: str, type: str, code: int | None = None) -> bytes:
    """Return the result of a call that has failed, as JSON text.

    Args:
        message: text for people.
        type: what programs know it by.
        code: a number for programs.
    """
    fields: dict[str, Any] = {"message": message, "type": type}
    if code is not None:
        fields["code"] = code
    return encode_args({"error": fields})


def result_value(res: Res) -> Any:
    """Decode a result.

    Raises:
        CallFailed: the result is an error: it is marked as one, or it is not marked at all and has the shape
            ``{"error": {"message": …}}``.
        InvalidValue: the result has no Python value.
    """
    value = decode_args(res.args)
    if res.failed is False:
        return value
    error = value["error"] if isinstance(value, dict) and value.keys() == {"error"} else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        code = error.get("code")
        raise CallFailed(
            error["message"],
            str(error.get("type", "")),
            code=code if isinstance(code, (int, str)) else None,
            data=error.get("data"),
        )
    if res.failed:
        # An error in another callee's own format.
        raise CallFailed(res.args[:_MAX_MESSAGE].decode(errors="replace"), data=value)
    return value
