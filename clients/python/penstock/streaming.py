"""Answers that come in pieces, in AbstractCore's words: what ``stream=True`` returns.

What an event means is said once, in `Reading`; the two streams only wait, each in its way. A
stream's end, however it came, is told to whoever began it: by its end, by a failure, or because
nobody listens any more.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

from penstock import aio, sync, v1
from penstock.response import GenerateResponse, of_answer


class Reading:
    """What has been read of an answer so far. Pure: nothing waits here.

    ``content`` and ``reasoning`` are all that came; ``answer`` is the whole, once it is there.
    """

    def __init__(self, model: str) -> None:
        self.answer: GenerateResponse | None = None
        self.error: BaseException | None = None
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


class ChunkStream:
    """An answer's chunks, as they come: an iterator, and a context manager.

    Joining the chunks' ``content`` gives the whole text. The last chunk has no text, but usage,
    finish reason and tool calls. Iterating raises what the call fails with, after all chunks that
    came before it. Breaking off (leaving the ``with`` block or the loop, `close`) ends the call
    on the server, too.

    Example::

        for chunk in llm.generate("Count to five.", stream=True):
            print(chunk.content, end="", flush=True)
    """

    def __init__(
        self, stream: sync.Stream, reading: Reading, ended: Callable[[Reading], object]
    ) -> None:
        self._stream = stream
        self._reading = reading
        self._ended: Callable[[Reading], object] | None = ended

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> GenerateResponse:
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

    def __del__(self) -> None:
        self.close()

    @property
    def response(self) -> GenerateResponse | None:
        """The whole answer; None until the stream has brought it."""
        return self._reading.answer

    def close(self) -> None:
        """End the call, where it has not ended."""
        ended, self._ended = self._ended, None
        if ended is not None:
            self._stream.cancel()
            ended(self._reading)


class AsyncChunkStream:
    """An answer's chunks, as they come: `ChunkStream`'s twin.

    ``told`` is awaited at its end where there is time for that, else ``ended`` is called.

    Example::

        async for chunk in await llm.agenerate("Count to five.", stream=True):
            print(chunk.content, end="", flush=True)
    """

    def __init__(
        self,
        stream: aio.Stream,
        reading: Reading,
        ended: Callable[[Reading], object],
        told: Callable[[Reading], Awaitable[object]],
    ) -> None:
        self._stream = stream
        self._reading = reading
        self._ended: Callable[[Reading], object] | None = ended
        self._told = told

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerateResponse:
        try:
            async for event in self._stream:
                chunk = self._reading.take(event)
                if chunk is not None:
                    return chunk
        except BaseException as error:
            self._reading.error = error
            if isinstance(error, Exception):
                await self.aclose()
            else:
                self._close()  # the task is being cancelled: nobody waits any longer
            raise
        await self.aclose()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._close()

    @property
    def response(self) -> GenerateResponse | None:
        """The whole answer; None until the stream has brought it."""
        return self._reading.answer

    async def aclose(self) -> None:
        """End the call, where it has not ended."""
        if self._ended is not None:
            self._ended = None
            self._stream.cancel()
            await self._told(self._reading)

    def _close(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self._stream.cancel()
            ended(self._reading)
