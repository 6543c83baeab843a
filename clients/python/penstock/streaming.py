"""Answers that come in pieces, in AbstractCore's words: what ``stream=True`` returns.

What an event means is said once, in `Reading`; the two streams only wait, each in its way. A
stream's end, however it came, is told to whoever began it, once (`Ending`): by its end, by a
failure, or because nobody listens any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeVar

from penstock import aio, sync, v1
from penstock.response import GenerateResponse, of_answer

_StreamT = TypeVar("_StreamT", bound=sync.Stream | aio.Stream)


class Reading:
    """What has been read of an answer so far. Pure: nothing waits here.

    ``content`` and ``reasoning`` are all that came; ``answer`` is the whole, once it is there;
    ``reader`` is the thread (its number) or task that read last.
    """

    def __init__(self, model: str) -> None:
        self.answer: GenerateResponse | None = None
        self.error: BaseException | None = None
        self.reader: object = None
        self._model = model
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._began = time.perf_counter()
        self._first: float | None = None

    @property
    def content(self) -> str:
        """The text so far."""
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        """The thoughts so far."""
        return "".join(self._reasoning)

    @property
    def elapsed(self) -> float:
        """Milliseconds since the answer was asked for."""
        return (time.perf_counter() - self._began) * 1000

    def take(self, event: v1.StreamGenerateResponse) -> GenerateResponse | None:
        """The chunk that an event makes; None where it says nothing new."""
        if event.HasField("completed"):
            self.answer = of_answer(event.completed, self.elapsed)
            last = of_answer(event.completed, self.elapsed)
            last.content = ""  # what is new; the text has been told
            last.metadata.pop("reasoning", None)
            return last
        delta = event.part_delta
        if not delta.text and not delta.thinking:
            return None
        metadata: dict[str, Any] = {}
        if self._first is None:
            self._first = self.elapsed
            metadata["_timing"] = {"source": "client", "ttft_ms": self._first}
        if delta.text:
            self._content.append(delta.text)
        else:
            self._reasoning.append(delta.thinking)
            metadata["reasoning"] = delta.thinking
        return GenerateResponse(delta.text, event, self._model, metadata=metadata)


class Ending:
    """What a stream's end means to whoever began it; it comes once.

    Args:
        keep: told first of what was read. Takes no locks and does not wait: it is also called
            where the garbage collector lets go of a stream, in the midst of anything.
        tell: the rest, in a thread that may wait.
        atell: the rest, for a task that may wait.
    """

    def __init__(
        self,
        keep: Callable[[Reading], object],
        tell: Callable[[Reading], object],
        atell: Callable[[Reading], Awaitable[object]],
    ) -> None:
        self.keep = keep
        self.tell = tell
        self.atell = atell
        self._left = [None]  # emptied in one step, whatever comes between

    def comes(self, reading: Reading) -> bool:
        """Whether this is the end; False where it had come before."""
        try:
            self._left.pop()
        except IndexError:
            return False
        self.keep(reading)
        return True

    def now(self, reading: Reading) -> None:
        """The end, where it has not come."""
        if self.comes(reading):
            try:
                self.tell(reading)
            finally:
                reading.error = None  # its traceback holds the stream, which holds the reading

    async def in_time(self, reading: Reading) -> None:
        """`now`'s twin."""
        if self.comes(reading):
            try:
                await self.atell(reading)
            finally:
                reading.error = None

    def elsewhere(self, reading: Reading) -> None:
        """The end of a stream that nobody holds any more."""
        if not sys.is_finalizing() and self.comes(reading):
            # Handlers and queues have locks, which this very thread may hold at the moment.
            with contextlib.suppress(RuntimeError):  # the process ends, too
                threading.Thread(target=self.tell, args=(reading,), daemon=True).start()


class _Chunks(Generic[_StreamT]):
    """What both streams have in common: all but the waiting."""

    def __init__(self, stream: _StreamT, reading: Reading, ending: Ending) -> None:
        self._stream: _StreamT = stream
        self._reading = reading
        self._ending = ending

    def __del__(self) -> None:
        self._stream.cancel()
        self._ending.elsewhere(self._reading)

    @property
    def response(self) -> GenerateResponse | None:
        """The whole answer; None until the stream has brought it."""
        return self._reading.answer


class ChunkStream(_Chunks[sync.Stream]):
    """An answer's chunks, as they come: an iterator, and a context manager.

    Joining the chunks' ``content`` gives the whole text. The last chunk has no text, but usage,
    finish reason and tool calls. Iterating raises what the call fails with, after all chunks that
    came before it. Breaking off (leaving the ``with`` block or the loop, `close`) ends the call
    on the server, too.

    Example::

        for chunk in llm.generate("Count to five.", stream=True):
            print(chunk.content, end="", flush=True)
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> GenerateResponse:
        self._reading.reader = threading.get_ident()
        try:
            for event in self._stream:
                chunk = self._reading.take(event)
                if chunk is not None:
                    return chunk
        except BaseException as error:
            self._reading.error = error
            self.close()
            raise
        self.close()
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the call, where it has not ended."""
        self._stream.cancel()
        self._ending.now(self._reading)


class AsyncChunkStream(_Chunks[aio.Stream]):
    """An answer's chunks, as they come: `ChunkStream`'s twin.

    Example::

        async for chunk in await llm.agenerate("Count to five.", stream=True):
            print(chunk.content, end="", flush=True)
    """

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerateResponse:
        self._reading.reader = asyncio.current_task()
        try:
            async for event in self._stream:
                chunk = self._reading.take(event)
                if chunk is not None:
                    return chunk
        except BaseException as error:
            self._reading.error = error
            if isinstance(error, Exception):
                await self.aclose()
            else:  # the task is being cancelled: nobody waits any longer
                self._stream.cancel()
                self._ending.now(self._reading)
            raise
        await self.aclose()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the call, where it has not ended."""
        self._stream.cancel()
        await self._ending.in_time(self._reading)
