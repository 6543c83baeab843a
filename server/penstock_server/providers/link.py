"""The gateway's end of a link: many calls to a sidecar by one stream, each like a call of its own.

`Link` has the methods of a `GenerationServiceStub`, so that whoever asks need not know by which way
it goes. The sidecar's end is the server's ``link``; why there are links stands in
``proto/penstock/link/v1``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import grpc
from google.rpc.status_pb2 import Status
from penstock import v1
from penstock.link import v1 as link

SERVICE = "penstock.link.v1.LinkService"
"""The service's name, under which a gateway asks by health whether there is one."""

LARGEST = 1 << 18
"""How large a request may be, in bytes, that goes by a link: it holds up those behind it."""

# Events that may be on their way to a caller who does not read; beyond that, the sidecar waits.
_CREDIT = 64

_CODES = {code.value[0]: code for code in grpc.StatusCode}

Metadata = Sequence[tuple[str, str]]


class Link:
    """A link to one sidecar, opened by the first call, and anew by the next one when it broke.

    Concurrency: all on one event loop. One task reads and one writes; what several calls have to
    say in one round of the loop is one message. A link that breaks fails its calls with the status
    that it broke with, as if each had been a call of its own.

    Example::

        link = Link(LinkServiceStub(channel))
        async for event in link.StreamGenerate(request, timeout=None, metadata=()): ...
    """

    def __init__(self, stub: link.LinkServiceAsyncStub) -> None:
        self._stub = stub
        self._wire: _Wire | None = None

    async def Generate(
        self, request: v1.GenerateRequest, *, timeout: float | None, metadata: Metadata
    ) -> v1.GenerateResponse:
        """As ``GenerationServiceStub.Generate``."""
        call = self._call(link.Begin(request=request), timeout, metadata)
        try:
            return await call.response()
        finally:
            call.cancel()

    def StreamGenerate(
        self, request: v1.StreamGenerateRequest, *, timeout: float | None, metadata: Metadata
    ) -> LinkedCall:
        """As ``GenerationServiceStub.StreamGenerate``."""
        begin = link.Begin(request=request.request, stream=True, credit=_CREDIT)
        return self._call(begin, timeout, metadata)

    async def close(self) -> None:
        """End it, and with it the calls that still run."""
        if self._wire is not None:
            await self._wire.close()

    def _call(self, begin: link.Begin, timeout: float | None, metadata: Metadata) -> LinkedCall:
        if timeout is not None:
            begin.timeout.FromNanoseconds(int(timeout * 1e9))
        begin.metadata.update(metadata)
        wire = self._wire
        if wire is None or wire.broken:
            wire = self._wire = _Wire(self._stub.Link())
        return wire.begin(begin)


class LinkedCall(AsyncIterator[v1.StreamGenerateResponse]):
    """One call; what a gRPC call would be to its one reader, as far as anybody asks.

    Raises `grpc.aio.AioRpcError` where it fails.
    """

    def __init__(self, wire: _Wire, number: int) -> None:
        self._wire = wire
        self._number = number
        self._arrived: deque[link.Frame] = deque()
        self._failure: grpc.aio.AioRpcError | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._taken = 0
        self._over = False

    async def __anext__(self) -> v1.StreamGenerateResponse:
        """The next event."""
        if self._over:
            raise StopAsyncIteration
        frame = await self._next()
        if frame.HasField("status"):
            self._ended(frame)
            raise StopAsyncIteration
        if not frame.HasField("event"):
            raise self._nonsense(frame)
        self._taken += 1
        if self._taken >= _CREDIT // 2:
            self._wire.allow(self._number, self._taken)
            self._taken = 0
        return frame.event

    async def response(self) -> v1.GenerateResponse:
        """The answer to a call that is no stream."""
        frame = await self._next()
        self._ended(frame)
        if not frame.HasField("response"):
            raise self._nonsense(frame)
        return frame.response

    def cancel(self) -> None:
        """Want no more of it. Nothing happens where it is over."""
        if not self._over:
            self._over = True
            self._wire.cancel(self._number)

    def receive(self, frame: link.Frame) -> None:
        """Take in what came for this call."""
        self._arrived.append(frame)
        self._wake()

    def fail(self, error: grpc.aio.AioRpcError) -> None:
        """Nothing will come any more."""
        self._failure = error
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _next(self) -> link.Frame:
        while not self._arrived:
            if self._failure is not None:
                self._over = True
                raise _again(self._failure)
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._arrived.popleft()

    def _nonsense(self, frame: link.Frame) -> grpc.aio.AioRpcError:
        self.cancel()
        kind = frame.WhichOneof("content")
        return _error(grpc.StatusCode.INTERNAL, f"the sidecar's link told {kind} out of its place")

    def _ended(self, frame: link.Frame) -> None:
        self._over = True
        self._wire.forget(self._number)
        if frame.status.code:
            raise _failed(frame.status)


class _Wire:
    """The stream itself, while it lives."""

    def __init__(
        self, stream: grpc.aio.StreamStreamCall[link.LinkRequest, link.LinkResponse]
    ) -> None:
        self.broken = False
        self._stream = stream
        self._calls: dict[int, LinkedCall] = {}
        self._numbers = itertools.count(1)
        self._messages: deque[link.LinkRequest] = deque()
        self._filled = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        self._writing = asyncio.create_task(self._write())

    def begin(self, begin: link.Begin) -> LinkedCall:
        begin.call = next(self._numbers)
        call = self._calls[begin.call] = LinkedCall(self, begin.call)
        message = self._message()
        # No message is larger than two requests: any sidecar takes that.
        if message.begin and message.ByteSize() + begin.ByteSize() > LARGEST:
            message = self._message(another=True)
        message.begin.append(begin)
        return call

    def allow(self, number: int, events: int) -> None:
        self._message().credit.add(call=number, events=events)

    def cancel(self, number: int) -> None:
        if self._calls.pop(number, None) is not None and not self.broken:
            self._message().cancel.append(number)

    def forget(self, number: int) -> None:
        self._calls.pop(number, None)

    async def close(self) -> None:
        self._stream.cancel()
        self._writing.cancel()
        await asyncio.gather(self._reading, self._writing, return_exceptions=True)

    def _message(self, *, another: bool = False) -> link.LinkRequest:
        if another or not self._messages:
            self._messages.append(link.LinkRequest())
            self._filled.set()
        return self._messages[-1]

    async def _read(self) -> None:
        error = _ended_by_the_sidecar()
        try:
            async for message in self._stream:
                for frame in message.frames:
                    if call := self._calls.get(frame.call):
                        call.receive(frame)
        except grpc.aio.AioRpcError as broken:
            error = broken
        finally:
            self.broken = True
            self._writing.cancel()
            for call in self._calls.values():
                call.fail(error)
            self._calls.clear()

    async def _write(self) -> None:
        # A stream that broke is the reader's to tell.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._filled.wait()
                while self._messages:
                    await self._stream.write(self._messages.popleft())
                self._filled.clear()


def _ended_by_the_sidecar() -> grpc.aio.AioRpcError:
    return _error(grpc.StatusCode.UNAVAILABLE, "the sidecar ended its link")


def _failed(status: link.Status) -> grpc.aio.AioRpcError:
    """What the gRPC call would have raised."""
    whole = Status(code=status.code, message=status.message, details=status.details)
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    details = ("grpc-status-details-bin", whole.SerializeToString())
    return _error(code, status.message, details)


def _again(error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """The same, for one call of several: a raised exception collects its tracebacks."""
    trailers = error.trailing_metadata() or ()
    return _error(error.code(), error.details() or "", *trailers)


def _error(
    code: grpc.StatusCode, message: str, *trailers: tuple[str, str | bytes]
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details=message
    )
