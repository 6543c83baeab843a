"""Both flavours of the client behind the same calls, so that one test holds for both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import penstock

T = TypeVar("T")


class LoopThread:
    """An event loop of its own, in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class BlockingStream:
    """An aio stream, read like a sync one."""

    def __init__(self, thread: LoopThread, stream: Any) -> None:
        self._thread = thread
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        async def read() -> Any:
            return await anext(self._stream)

        try:
            return self._thread.run(read())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> BlockingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        self._thread.loop.call_soon_threadsafe(self._stream.cancel)

    def text(self) -> Iterator[str]:
        return iter(BlockingStream(self._thread, self._stream.text()))

    @property
    def response(self) -> Any:
        return self._stream.response


class BlockingClient:
    """`penstock.aio.Client`, called like `penstock.Client`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._thread = LoopThread()
        self._client = penstock.aio.Client(*args, **settings)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            async def ask() -> Any:
                result = method(*args, **options)
                return await result if asyncio.iscoroutine(result) else result

            result = self._thread.run(ask())
            return BlockingStream(self._thread, result) if hasattr(result, "cancel") else result

        return call

    def close(self) -> None:
        self._thread.run(self._client.close())
        self._thread.close()


FLAVOURS: dict[str, Callable[..., Any]] = {"sync": penstock.Client, "aio": BlockingClient}
