"""The samples of the plan that the high-level client goes back to, as they were written there.

Only the import names Penstock. They talk to a real gateway whose providers are one scripted HTTP
server, and they are worth something: where that server fails, so do they.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from penstock import (
    AsyncEventEmitter,
    BasicSession,
    Event,
    EventType,
    ModelNotFoundError,
    PenstockError,
    ProviderAPIError,
    ProviderUnavailableError,
    RateLimitError,
    acreate_llm,
    aexecute_tools,
    create_llm,
    execute_tools,
)

from tests.providers.upstream import Received, Script
from tests.support.hosted import BROKEN, WORDS, Hosted, well
from tests.support.processes import ServerProcess


@pytest.fixture(autouse=True)
def upstream(
    hosted: Hosted, hosted_gateway: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hosted]:
    monkeypatch.setenv("PENSTOCK_TARGET", hosted_gateway.address)
    yield hosted
    hosted.reset()


# As written: tests/async/test_async_providers.py.


@pytest.mark.asyncio
async def test_async_generation() -> None:
    """Test basic async generation."""
    llm = create_llm("openai", model="gpt-4o-mini")
    response = await llm.agenerate("Hello")
    assert response.content


@pytest.mark.asyncio
async def test_concurrent_requests() -> None:
    """Test concurrent async requests."""
    llm = create_llm("openai", model="gpt-4o-mini")

    # Execute 10 requests concurrently
    tasks = [llm.agenerate(f"Count to {i}") for i in range(10)]
    responses = await asyncio.gather(*tasks)

    assert len(responses) == 10
    assert all(r.content for r in responses)


@pytest.mark.asyncio
async def test_async_session() -> None:
    """Test async session management."""
    llm = create_llm("openai", model="gpt-4o-mini")
    session = BasicSession(provider=llm)

    response1 = await session.agenerate("Hello")  # noqa: F841 - as written
    response2 = await session.agenerate("How are you?")  # noqa: F841

    assert len(session.messages) == 4  # 2 user + 2 assistant


@pytest.mark.asyncio
async def test_async_streaming() -> None:
    """Test async streaming responses."""
    llm = create_llm("openai", model="gpt-4o-mini")

    chunks = []
    async for chunk in await llm.agenerate("Count to 10", stream=True):
        chunks.append(chunk)

    assert len(chunks) > 0


@pytest.mark.asyncio
async def test_async_error_handling() -> None:
    """Test async error handling."""
    llm = create_llm("openai", model="invalid-model")

    with pytest.raises(ModelNotFoundError):
        await llm.agenerate("Hello")


# As written: tests/async/test_performance.py, the two scenarios, and what else was promised.


@pytest.mark.asyncio
async def test_batch_performance(upstream: Hosted) -> None:
    """Compare sync vs async batch performance."""
    upstream.answers = after(0.05)
    llm = create_llm("openai", model="gpt-4o-mini")

    # Sync baseline
    start = time.time()
    sync_results = [llm.generate(f"Test {i}") for i in range(100)]
    sync_time = time.time() - start

    # Async comparison
    start = time.time()
    async_results = await asyncio.gather(*[llm.agenerate(f"Test {i}") for i in range(100)])
    async_time = time.time() - start

    print(f"Sync: {sync_time:.2f}s")
    print(f"Async: {async_time:.2f}s")
    print(f"Speedup: {sync_time / async_time:.2f}x")

    # Verify async is significantly faster
    assert async_time < sync_time * 0.4  # At least 2.5x faster
    assert [r.content for r in sync_results] == [r.content for r in async_results]


async def test_batch_summarisation() -> None:
    llm = create_llm("openai", model="gpt-4o-mini")

    async def summarize_batch(documents: list[str]) -> list[Any]:
        tasks = [llm.agenerate(f"Summarize: {doc}") for doc in documents]
        return await asyncio.gather(*tasks, return_exceptions=True)

    summaries = await summarize_batch([f"document {i}" for i in range(30)])
    assert [summary.content for summary in summaries] == [WORDS] * 30


async def test_consensus_of_several_providers(upstream: Hosted) -> None:
    openai_llm = create_llm("openai", model="gpt-4o-mini")
    anthropic_llm = create_llm("anthropic")
    ollama_llm = create_llm("ollama", model="qwen3:4b")
    providers = [openai_llm, anthropic_llm, ollama_llm]
    responses = await asyncio.gather(*[p.agenerate("Evaluate sentiment") for p in providers])
    assert [response.content for response in responses] == [WORDS] * 3
    paths = {request.path.partition("?")[0] for request in upstream.upstream.received}
    assert paths == {"/v1/responses", "/v1/messages", "/api/chat"}


async def test_factory() -> None:
    llm = await acreate_llm("openai", model="gpt-4o-mini")
    response = await llm.agenerate("Hello")
    assert response.content == WORDS
    assert "chat" in await llm.aget_capabilities()
    assert await llm.aget_capabilities() == await asyncio.to_thread(llm.get_capabilities)


async def test_session_files(tmp_path: Path) -> None:
    session = BasicSession(provider=create_llm("openai", model="gpt-4o-mini"))
    await session.agenerate("Hello")
    file_path = str(tmp_path / "session.json")
    await session.asave(file_path)
    kind: Any = BasicSession  # types do not follow a class method's other name
    loaded = await kind.aload_from_file(file_path, provider=session.provider)
    assert loaded.get_history() == session.get_history()
    await loaded.agenerate("How are you?")
    assert len(loaded.messages) == 4


async def test_emitter() -> None:
    emitter = AsyncEventEmitter()
    told: list[str] = []

    async def listener(event: Event) -> None:
        await asyncio.sleep(0)
        told.append(f"async {event.data['n']} {event.source}")

    def broken(event: Event) -> None:
        raise RuntimeError("a handler that fails harms nobody")

    emitter.on(EventType.TOOL_STARTED, lambda event: told.append(f"sync {event.data['n']}"))
    emitter.on(EventType.TOOL_STARTED, broken)
    emitter.on_async(EventType.TOOL_STARTED, listener)
    await emitter.aemit(EventType.TOOL_STARTED, {"n": 1}, source="test")
    assert sorted(told) == ["async 1 test", "sync 1"]


# The same without awaiting, as far as it makes sense.


def test_generation() -> None:
    llm = create_llm("openai", model="gpt-4o-mini")
    assert llm.generate("Hello").content == WORDS


def test_session() -> None:
    session = BasicSession(provider=create_llm("openai", model="gpt-4o-mini"))
    session.generate("Hello")
    session.generate("How are you?")
    assert len(session.messages) == 4


def test_streaming() -> None:
    llm = create_llm("openai", model="gpt-4o-mini")
    chunks = list(llm.generate("Count to 10", stream=True))
    assert "".join(chunk.content or "" for chunk in chunks) == WORDS
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage


def test_error_handling() -> None:
    llm = create_llm("openai", model="invalid-model")
    with pytest.raises(ModelNotFoundError, match="invalid-model"):
        llm.generate("Hello")


# Tools: the plan gives the results' shape.


def add(a: int, b: int) -> int:
    return a + b


async def multiply(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a * b


def fail() -> None:
    raise RuntimeError("it broke")


async def hang() -> None:
    await asyncio.Event().wait()


def linger(seconds: float) -> None:
    time.sleep(seconds)


CALLS = [
    {"name": "add", "arguments": {"a": 2, "b": 3}},
    {"name": "multiply", "arguments": {"a": 2, "b": 3}},
    {"name": "unknown", "arguments": {}},
    {"name": "fail", "arguments": {}},
    {"name": "hang", "arguments": {}},
    {"name": "linger", "arguments": {"seconds": 2}},
]
TOOLS: list[Callable[..., Any]] = [add, multiply, fail, hang, linger]


def holds(results: list[dict[str, Any]], took: float) -> None:
    assert [result["name"] for result in results] == [call["name"] for call in CALLS]
    assert [result.get("result") for result in results] == [5, 6, None, None, None, None]
    wanted = ("not found", "it broke", "timed out", "timed out")
    for result, words in zip(results[2:], wanted, strict=True):
        assert words in result["error"]
        assert "result" not in result
    assert took < 1.5  # the limit of 0.3 s is kept, though a thread goes on


async def test_tools_awaited() -> None:
    began = time.monotonic()
    results = await aexecute_tools(tool_calls=CALLS, available_tools=TOOLS, timeout=0.3)
    holds(results, time.monotonic() - began)


def test_tools() -> None:
    began = time.monotonic()
    results = execute_tools(CALLS, TOOLS, timeout=0.3)
    holds(results, time.monotonic() - began)


# The counter-proof: with an upstream that fails, the samples above do, and say why.

AWAITED: list[Callable[[], Awaitable[None]]] = [
    test_async_generation,
    test_concurrent_requests,
    test_async_session,
    test_async_streaming,
    test_async_error_handling,
]
BLOCKING: list[Callable[[], None]] = [
    test_generation,
    test_session,
    test_streaming,
    test_error_handling,
]
RAISED: dict[str, type[PenstockError]] = {
    "500": ProviderAPIError,
    "429": RateLimitError,
    "nonsense": ProviderAPIError,
    "closed": ProviderUnavailableError,
}


def after(seconds: float) -> Callable[[Received], Script]:
    """Answers well, but not at once."""

    def answers(request: Received) -> Script:
        script = well(request)
        return Script([seconds, *script.body], script.status, script.headers)

    return answers


@pytest.fixture(params=RAISED)
def raised(request: pytest.FixtureRequest, upstream: Hosted) -> type[PenstockError]:
    upstream.answers = lambda _: BROKEN[request.param]
    return RAISED[request.param]


@pytest.mark.parametrize("sample", AWAITED, ids=lambda sample: sample.__name__)
async def test_a_sample_fails_where_the_upstream_does(
    sample: Callable[[], Awaitable[None]], raised: type[PenstockError], upstream: Hosted
) -> None:
    with pytest.raises(raised) as caught:
        await sample()
    assert not isinstance(caught.value, ModelNotFoundError)
    assert upstream.upstream.received


@pytest.mark.parametrize("sample", BLOCKING, ids=lambda sample: sample.__name__)
async def test_a_blocking_sample_fails_where_the_upstream_does(
    sample: Callable[[], None], raised: type[PenstockError], upstream: Hosted
) -> None:
    with pytest.raises(raised) as caught:
        await asyncio.to_thread(sample)
    assert not isinstance(caught.value, ModelNotFoundError)
    assert upstream.upstream.received


async def test_a_session_keeps_nothing_of_a_failed_call(
    raised: type[PenstockError], upstream: Hosted
) -> None:
    session = BasicSession(provider=create_llm("openai", model="gpt-4o-mini"))
    with pytest.raises(raised):
        await session.agenerate("Hello")
    with pytest.raises(raised):
        await asyncio.to_thread(session.generate, "Hello")
    assert session.messages == []
    upstream.reset()
    await session.agenerate("Hello")
    assert [message.role for message in session.messages] == ["user", "assistant"]


def test_waiting_is_told_of(upstream: Hosted) -> None:
    upstream.answers = lambda _: BROKEN["429"]
    with pytest.raises(RateLimitError) as caught:
        create_llm("openai", model="gpt-4o-mini").generate("Hello")
    assert caught.value.retry_delay == 7
    assert caught.value.metadata["upstream_status"] == "429"
