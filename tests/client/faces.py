"""One face for both flavours of the high-level client: every call is awaited.

``face.generate(...)`` calls ``agenerate`` of the object behind it, or ``generate`` in a thread, so
that one test body serves both.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import penstock
import pytest

if TYPE_CHECKING:
    from tests.client.conftest import Server


class Face:
    """An `LLM`, `BasicSession`, … whose synchronous calls run in threads."""

    def __init__(self, flavour: str, behind: Any) -> None:
        self.flavour = flavour
        self.behind = behind

    def __getattr__(self, name: str) -> Any:
        if self.flavour == "aio":
            return getattr(self.behind, f"a{name}")
        return functools.partial(in_thread, getattr(self.behind, name))


_threads = ThreadPoolExecutor(64, "face")  # asyncio's own has six where there are two cores


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    result = await asyncio.get_running_loop().run_in_executor(_threads, call)
    return ThreadedIterator(result) if isinstance(result, Iterator) else result


class ThreadedIterator:
    """A synchronous iterator that is awaited."""

    def __init__(self, behind: Any) -> None:
        self.behind = behind

    def __aiter__(self) -> ThreadedIterator:
        return self

    async def __anext__(self) -> Any:
        end = object()
        item = await in_thread(next, self.behind, end)
        if item is end:
            raise StopAsyncIteration
        return item

    async def __aenter__(self) -> ThreadedIterator:
        self.behind.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await in_thread(self.behind.__exit__, *error)

    async def aclose(self) -> None:
        await in_thread(self.behind.close)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


MakeLLM: TypeAlias = Callable[..., Face]
Told: TypeAlias = list[penstock.Event]


@pytest.fixture
async def make_llm(
    flavour: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakeLLM]:
    """Makes LLMs behind the face of the flavour under test, and closes them."""
    for variable in ("PENSTOCK_TARGET", "PENSTOCK_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    made: list[penstock.LLM] = []

    def make(provider: str = "test", model: str | None = "model", **options: Any) -> Face:
        options = {"target": server.target, "timeout": 20, **options}
        made.append(penstock.create_llm(provider, model, **options))
        return Face(flavour, made[-1])

    yield make
    for llm in made:
        await llm.aclose()


@pytest.fixture
def llm(make_llm: MakeLLM) -> Face:
    return make_llm()


@pytest.fixture
def make_session(flavour: str, llm: Face) -> Callable[..., Face]:
    """Makes sessions behind the face, with ``llm`` unless they are given another."""

    def make(*args: Any, **options: Any) -> Face:
        options.setdefault("provider", llm.behind)
        return Face(flavour, penstock.BasicSession(*args, **options))

    return make


@pytest.fixture
def told(llm: Face) -> Told:
    """The events of ``llm``, as they come."""
    events: Told = []
    llm.behind.events.on("*", events.append)
    return events


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Waits for what happens beside the test; fails where it does not."""
    try:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what happens in threads sets no events
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"waited in vain for {what}")


def kinds(events: Told) -> list[str]:
    return [str(event.type) for event in events]
