"""What all streams have in common, of clients and backends: a call whose result arrives in parts. PURE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from juggler.protocol.codec import decode_args
from juggler.protocol.messages import Res
from juggler.protocol.results import result_value

if TYPE_CHECKING:
    from typing_extensions import Self


class BaseStream(ABC):
    """A call whose result arrives in parts.

    Attributes:
        uri: URI of the function.
        uuid: identifier of the call.
    """

    def __init__(self, uri: str, uuid: str) -> None:
        self.uri = uri
        self.uuid = uuid

    @abstractmethod
    def close(self) -> None:
        """Cancel the call, unless it has completed. Idempotent."""


class BlockingStream(BaseStream, Iterator[Any]):
    """An iterator of the parts, and a context manager that cancels the call."""

    @abstractmethod
    def next_json(self) -> bytes | None:
        """Wait for the next part and return its JSON text, or ``None`` after the last one. Errors as in iteration."""

    @abstractmethod
    def response(self) -> Res:
        """Like `result`, but return the RES message, whether the function failed or not."""

    def result(self) -> Any:
        """Read and drop the parts that were not read, and return the result. Errors as in iteration."""
        return result_value(self.response())

    def __next__(self) -> Any:
        text = self.next_json()
        if text is None:
            raise StopIteration
        return decode_args(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AwaitedStream(BaseStream, AsyncIterator[Any]):
    """The same for asyncio. A cancelled task cancels the call."""

    @abstractmethod
    async def next_json(self) -> bytes | None:
        """See `BlockingStream.next_json`."""

    @abstractmethod
    async def response(self) -> Res:
        """See `BlockingStream.response`."""

    async def result(self) -> Any:
        """See `BlockingStream.result`."""
        return result_value(await self.response())

    async def __anext__(self) -> Any:
        text = await self.next_json()
        if text is None:
            raise StopAsyncIteration
        return decode_args(text)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
