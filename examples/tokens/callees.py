"""The functions: a stand-in for a language model, as a plain generator that blocks."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from itertools import cycle, islice
from typing import Annotated

from msgspec import Meta

from callee import Callee, publish

PAUSE = float(os.environ.get("TOKENS_PAUSE", "0.03"))
"""Seconds that a word takes."""

TEXT = (
    "the juggler keeps every ball in the air and never looks at one for long because each throw is a promise that the "
    "other hand has already made so nothing waits nothing falls and the crowd sees only a slow bright circle"
)

rpc = Callee()

Prompt = Annotated[str, Meta(min_length=1, max_length=1000)]
Limit = Annotated[int, Meta(ge=1, le=2000)]


# A model blocks without gevent's knowledge, so it runs in a thread. Words are joined for up to 40 ms.
@rpc.register("tokens.write", pool="thread", coalesce=0.04)
def write(prompt: Prompt, limit: Limit = 150) -> Generator[str, None, dict[str, int]]:
    """Continue a prompt, word by word. Return the number of words."""
    words = 0
    try:
        for word in islice(cycle([*prompt.split(), *TEXT.split()]), limit):
            time.sleep(PAUSE)  # the computation
            yield f"{word} "
            words += 1
    finally:
        # Runs if the reader stops or leaves, too: the generator is closed at its yield.
        publish("tokens.usage", {"words": words, "limit": limit})
    return {"words": words}
