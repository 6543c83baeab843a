"""One code path for both worlds: what has to wait is written once, as a coroutine.

Whatever waits (a call, a pause, a handler, a file, a turn) is asked of a `Flavour`. The
asynchronous one awaits; the synchronous one blocks, so that a coroutine which awaits nothing else
never suspends and `run` can drive it to its end without an event loop::

    async def greet(flavour: Flavour) -> str:              # written once
        return text_of(await flavour.call("generate", "Hi", model="local/tiny"))

    run(greet(blocking))                                   # generate()
    await greet(asynchronous)                              # agenerate()

What is to be done is not known here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar

from penstock import aio, sync, v1
from penstock._turns import Ticket, Turns
from penstock.events import Event, EventEmitter, EventType
from penstock.streaming import AsyncChunkStream, ChunkStream, Ending, Reading
from penstock.tools import aexecute_tools, execute_tools

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Flavour(Protocol):
    """How waiting is done."""

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Make a unary call by the client's method of that name."""
        ...

    async def follow(
        self, method: str, *arguments: Any, each: Callable[[Any], object], **options: Any
    ) -> None:
        """Hear a call's whole stream, and hand each message to ``each``."""
        ...

    async def emit(
        self, emitter: EventEmitter, kind: EventType, data: Mapping[str, Any], source: str
    ) -> Event:
        """Tell an event."""
        ...

    async def execute_tools(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        """See `penstock.execute_tools`."""
        ...

    async def pause(self, seconds: float, unless: threading.Event) -> None:
        """Let time pass, unless that happens."""
        ...

    async def work(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Have something done that blocks, such as reading a file."""
        ...

    async def turn(self, turns: Turns) -> Ticket:
        """Wait for one's turn."""
        ...

    def me(self) -> object:
        """The running task, or the thread's number."""
        ...

    def chunks(
        self, request: v1.GenerateRequest, timeout: float | None, reading: Reading, ending: Ending
    ) -> Any:
        """Ask for an answer in pieces: a `ChunkStream` or an `AsyncChunkStream`."""
        ...


class Blocking:
    """The synchronous flavour."""

    def __init__(self, client: sync.Client) -> None:
        self.client = client

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """See `Flavour.call`."""
        return getattr(self.client, method)(*arguments, **options)

    async def follow(
        self, method: str, *arguments: Any, each: Callable[[Any], object], **options: Any
    ) -> None:
        """See `Flavour.follow`."""
        with getattr(self.client, method)(*arguments, **options) as stream:
            for message in stream:
                each(message)

    async def emit(
        self, emitter: EventEmitter, kind: EventType, data: Mapping[str, Any], source: str
    ) -> Event:
        """See `Flavour.emit`."""
        return emitter.emit(kind, dict(data), source)

    async def execute_tools(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        """See `Flavour.execute_tools`."""
        return execute_tools(*arguments, **options)

    async def pause(self, seconds: float, unless: threading.Event) -> None:
        """See `Flavour.pause`."""
        unless.wait(seconds)

    async def work(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """See `Flavour.work`."""
        return function(*args, **kwargs)

    async def turn(self, turns: Turns) -> Ticket:
        """See `Flavour.turn`."""
        return turns.wait()

    def me(self) -> object:
        """See `Flavour.me`."""
        return threading.get_ident()

    def chunks(
        self, request: v1.GenerateRequest, timeout: float | None, reading: Reading, ending: Ending
    ) -> ChunkStream:
        """See `Flavour.chunks`."""
        return ChunkStream(self.client.stream(request, timeout=timeout), reading, ending)


class Asynchronous:
    """The asynchronous flavour."""

    def __init__(self, client: aio.Client) -> None:
        self.client = client

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """See `Flavour.call`."""
        return await getattr(self.client, method)(*arguments, **options)

    async def follow(
        self, method: str, *arguments: Any, each: Callable[[Any], object], **options: Any
    ) -> None:
        """See `Flavour.follow`."""
        async with getattr(self.client, method)(*arguments, **options) as stream:
            async for message in stream:
                each(message)

    async def emit(
        self, emitter: EventEmitter, kind: EventType, data: Mapping[str, Any], source: str
    ) -> Event:
        """See `Flavour.emit`."""
        return await emitter.aemit(kind, dict(data), source)

    async def execute_tools(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        """See `Flavour.execute_tools`."""
        return await aexecute_tools(*arguments, **options)

    async def pause(self, seconds: float, unless: threading.Event) -> None:
        """See `Flavour.pause`. Here it happens by cancelling."""
        await asyncio.sleep(seconds)

    async def work(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """See `Flavour.work`."""
        return await asyncio.to_thread(function, *args, **kwargs)

    async def turn(self, turns: Turns) -> Ticket:
        """See `Flavour.turn`."""
        return await turns.await_turn()

    def me(self) -> object:
        """See `Flavour.me`."""
        return asyncio.current_task()

    def chunks(
        self, request: v1.GenerateRequest, timeout: float | None, reading: Reading, ending: Ending
    ) -> AsyncChunkStream:
        """See `Flavour.chunks`."""
        return AsyncChunkStream(self.client.stream(request, timeout=timeout), reading, ending)


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Drive a coroutine that waits by `Blocking` alone, here and now, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: _T = ended.value
        return result
    coroutine.close()
    raise RuntimeError("something waited without asking its flavour")
