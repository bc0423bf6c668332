"""Control messages, which servers send to a callee process about the calls that it runs. PURE.

A control message is a JSON object: ``{"cancel": [call_id, …], "credit": {call_id: until, …}}``. Both members are
optional, and unknown ones are ignored.
"""

from __future__ import annotations

import msgspec

from juggler.errors import InvalidMessage


class Control(msgspec.Struct, omit_defaults=True):
    """A control message.

    Attributes:
        cancel: identifiers of cancelled calls.
        credit: for each call, the number of the last part that its callee may send.
    """

    cancel: list[str] = []
    credit: dict[str, int] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Control)


def encode_control(control: Control) -> bytes:
    """Return a control message as JSON text."""
    return _encoder.encode(control)


def decode_control(text: bytes) -> Control:
    """Return the control message.

    Raises:
        InvalidMessage: malformed.
    """
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"control message: {error}") from None
