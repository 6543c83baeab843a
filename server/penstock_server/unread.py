"""Callers who do not read: a stream that takes no message for too long is ended.

Such a stream costs no more memory with time, since it is not written to (gRPC's flow control) and
its provider is not read from; but it holds its place there, for as long as the caller's connection
lives. What is done for each message has to cost next to nothing, so it only counts; one sweep a
second looks at all streams.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from penstock_server import telemetry

_LONGEST_INTERVAL = 1.0

# A status goes out after the messages before it: whoever reads none of them does not see it either.
_TELLING = 0.5


class Reader:
    """One stream's caller, as the stream's writer sees it."""

    __slots__ = ("seen", "since", "task", "turn", "unread")

    def __init__(self) -> None:
        self.turn = 0
        """Counts up before and after each write: while it is odd, a message waits to be taken."""
        self.unread = False
        """It waited for too long."""
        self.task = asyncio.current_task()
        self.seen = 0
        self.since = 0.0


class Readers:
    """All streams' callers, and how many seconds a message may wait for one (0: for ever).

    Example::

        with readers.watched(reader):
            reader.turn += 1
            await context.write(event)
            reader.turn += 1
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._readers: set[Reader] = set()
        self._sweeping: asyncio.Task[None] | None = None

    @contextmanager
    def watched(self, reader: Reader) -> Iterator[None]:
        """Where the caller does not read, its task is cancelled, and the log line says so."""
        self._readers.add(reader)
        if self._timeout and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        except asyncio.CancelledError:
            if reader.unread:
                telemetry.note(error=self._story())
            raise
        finally:
            self._readers.discard(reader)

    async def tell(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """End the call: gRPC does not where its task is cancelled from within.

        Returns where the caller still does not read; the status is then on its way for as long as
        the connection lives.
        """
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_TELLING):
                await context.abort(grpc.StatusCode.CANCELLED, self._story())

    def _story(self) -> str:
        return f"the caller took no message for {self._timeout:g} s (limits.unread_timeout)"

    async def _sweep(self) -> None:
        """Look at all, as long as there are any."""
        while self._readers:
            await asyncio.sleep(min(_LONGEST_INTERVAL, self._timeout / 4))
            now = time.monotonic()
            for reader in self._readers:
                if reader.turn != reader.seen:
                    reader.seen, reader.since = reader.turn, now
                elif reader.turn % 2 and not reader.unread and now - reader.since >= self._timeout:
                    reader.unread = True
                    assert reader.task is not None
                    reader.task.cancel()
