"""Answers in pieces, in both flavours: what chunks tell, and every way in which a stream ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from penstock import v1

from tests.client.conftest import answer, delta
from tests.client.faces import Face, Told, kinds, until

if TYPE_CHECKING:
    from tests.client.conftest import Run, Server

Events = AsyncIterator[v1.StreamGenerateResponse]


async def never_ends(request: Any, context: Any) -> Events:
    yield delta("Hello ")
    yield delta("there")
    await asyncio.Event().wait()


async def breaks(request: Any, context: Any) -> Events:
    yield delta("Hello ")
    yield delta("there")
    await context.abort(grpc.StatusCode.INTERNAL, "broken")


async def ends_too_soon(request: Any, context: Any) -> Events:
    yield delta("Hello ")
    yield delta("there")


def one_end(told: Told) -> penstock.Event:
    """The event of the stream's end, which came once."""
    assert kinds(told).count("generation_started") == 1
    [over] = [event for event in told if event.type == "generation_completed"]
    return over


async def test_chunks(llm: Face, server: Server) -> None:
    async def stream(request: Any, context: Any) -> Events:
        yield v1.StreamGenerateResponse(started=v1.StreamStarted(id="answer-1", model="test/model"))
        yield v1.StreamGenerateResponse(part_delta=v1.PartDelta(thinking="hm"))
        yield v1.StreamGenerateResponse(part_started=v1.PartStarted(index=1))
        yield delta("Hel")
        yield delta("lo.")
        call = v1.PartDelta(index=2, tool_call_arguments="{}")
        yield v1.StreamGenerateResponse(part_delta=call)
        whole = answer("Hello.")
        whole.usage.CopyFrom(v1.Usage(input_tokens=3, output_tokens=4))
        whole.message.parts.append(penstock.tool_call("c1", "now", "{}"))
        whole.message.parts.append(penstock.thinking("hm"))
        whole.finish_reason = v1.FINISH_REASON_TOOL_CALLS
        yield v1.StreamGenerateResponse(completed=whole)

    server.stream = stream
    stream_of: Any = await llm.generate("Hi", stream=True)
    unread = stream_of.response
    chunks = [chunk async for chunk in stream_of]

    assert unread is None
    assert [chunk.content for chunk in chunks] == ["", "Hel", "lo.", ""]
    assert [chunk.reasoning for chunk in chunks] == ["hm", None, None, None]
    assert {chunk.model for chunk in chunks} == {"model"}
    first, *between, last = chunks
    assert first.metadata["_timing"]["source"] == "client"
    assert 0 < first.metadata["_timing"]["ttft_ms"] < 20_000
    for chunk in (first, *between):
        assert chunk.finish_reason is chunk.usage is chunk.tool_calls is None
        assert "_timing" not in chunk.metadata or chunk is first
    assert last.finish_reason == "tool_calls"
    assert last.total_tokens == 7
    assert last.tool_calls == [{"name": "now", "arguments": {}, "call_id": "c1"}]
    assert last.gen_time > 0
    assert stream_of.response.content == "Hello."
    assert stream_of.response.reasoning == "hm"
    with pytest.raises(StopAsyncIteration):
        await anext(stream_of)  # it stays at its end


async def test_events_of_a_whole_stream(llm: Face, told: Told) -> None:
    chunks = [chunk async for chunk in await llm.generate("Hi", stream=True)]
    await until(lambda: len(told) == 2)

    assert "".join(chunk.content for chunk in chunks) == "Hello there."
    over = one_end(told)
    assert over.data["success"] is True
    assert over.data["error"] is None
    assert over.data["stream"] is True
    assert over.data["response_length"] == len("Hello there.")
    assert over.data["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("stream", "message"), [(breaks, "broken"), (ends_too_soon, "without its completed event")]
)
async def test_a_failure_comes_after_what_came(
    llm: Face, server: Server, told: Told, stream: Any, message: str
) -> None:
    server.stream = stream
    texts: list[str] = []
    with pytest.raises(penstock.InternalError, match=message):
        async for chunk in await llm.generate("Hi", stream=True):
            texts.append(chunk.content)
    await until(lambda: len(told) == 3)

    assert texts == ["Hello ", "there"]
    over = one_end(told)
    assert over.data["success"] is False
    assert message in over.data["error"]
    assert over.data["response_length"] == len("Hello there")
    assert "error" in kinds(told)


async def leave_the_loop(llm: Face) -> None:
    async for _ in await llm.generate("Hi", stream=True):
        break


async def leave_the_with(llm: Face) -> None:
    async with await llm.generate("Hi", stream=True) as stream:
        await anext(stream)


async def raise_in_the_with(llm: Face) -> None:
    with pytest.raises(ZeroDivisionError):
        async with await llm.generate("Hi", stream=True) as stream:
            await anext(stream)
            raise ZeroDivisionError


async def close(llm: Face) -> None:
    stream = await llm.generate("Hi", stream=True)
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(penstock.CancelledCallError):
        await anext(stream)


async def close_unread(llm: Face) -> None:
    await (await llm.generate("Hi", stream=True)).aclose()


async def let_go(llm: Face) -> None:
    stream = await llm.generate("Hi", stream=True)
    await anext(stream)
    del stream


async def let_go_unread(llm: Face) -> None:
    await llm.generate("Hi", stream=True)


async def let_the_collector_find_it(llm: Face) -> None:
    circle: list[Any] = [await llm.generate("Hi", stream=True)]
    await anext(circle[0])
    circle.append(circle)
    del circle
    gc.collect()


WAYS = (
    leave_the_loop,
    leave_the_with,
    raise_in_the_with,
    close,
    close_unread,
    let_go,
    let_go_unread,
    let_the_collector_find_it,
)


@pytest.mark.parametrize("way", WAYS)
async def test_breaking_off(
    llm: Face, server: Server, told: Told, way: Callable[[Face], Any]
) -> None:
    server.stream = never_ends
    await way(llm)
    await until(lambda: "generation_completed" in kinds(told))

    over = one_end(told)
    assert over.data["success"] is False
    assert over.data["error"] == "broken off"
    assert len(told) == 2
    if "unread" not in way.__name__:  # a call that nobody read may never have left
        await server.was_cut_off()


@pytest.mark.parametrize("how", ["task.cancel", "asyncio.timeout", "in the body"])
async def test_cancelling_a_task(server: Server, how: str) -> None:
    server.stream = never_ends
    told: Told = []
    texts: list[str | None] = []
    both = asyncio.Event()

    async def read(llm: penstock.LLM) -> None:
        async for chunk in await llm.agenerate("Hi", stream=True):
            texts.append(chunk.content)
            if len(texts) == 2:
                both.set()
                if how == "in the body":
                    await asyncio.Event().wait()

    async with penstock.create_llm("test", "model", target=server.target) as llm:
        llm.events.on("*", told.append)
        task = asyncio.create_task(read(llm))
        await both.wait()
        if how == "asyncio.timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await task
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await server.was_cut_off()
        await until(lambda: len(told) == 2)

    assert texts == ["Hello ", "there"]
    over = one_end(told)
    assert over.data["success"] is False
    assert over.data["error"] == ("broken off" if how == "in the body" else "CancelledError")


async def test_closing_from_another_thread(server: Server) -> None:
    server.stream = never_ends
    failures: list[BaseException] = []

    def read(stream: penstock.ChunkStream) -> None:
        try:
            for _ in stream:
                pass
        except BaseException as error:
            failures.append(error)

    with penstock.create_llm("test", "model", target=server.target) as llm:
        told: Told = []
        llm.events.on("*", told.append)
        stream = await asyncio.to_thread(llm.generate, "Hi", stream=True)
        thread = threading.Thread(target=read, args=(stream,))
        thread.start()
        await until(lambda: server.calls)
        await asyncio.to_thread(stream.close)
        await asyncio.to_thread(thread.join)
        await until(lambda: "generation_completed" in kinds(told))

    assert [type(failure) for failure in failures] == [penstock.CancelledCallError]
    one_end(told)


async def test_many_streams_at_once(server: Server) -> None:
    async def stream(request: Any, context: Any) -> Events:
        for piece in request.request.messages[0].parts[0].text:
            yield delta(piece)
        yield v1.StreamGenerateResponse(completed=answer())

    server.stream = stream

    async def read(llm: penstock.LLM, text: str) -> str:
        chunks = await llm.agenerate(text, stream=True)
        return "".join([chunk.content or "" async for chunk in chunks])

    texts = [f"number {i}" for i in range(50)]
    async with penstock.create_llm("test", "model", target=server.target) as llm:
        assert await asyncio.gather(*(read(llm, text) for text in texts)) == texts


HELD_AT_THE_END = """
import sys
import penstock

llm = penstock.create_llm("test", "model", target=sys.argv[1])
llm.events.on("*", lambda event: None)
stream = llm.generate("Hi", stream=True)
print(next(stream).content, flush=True)
stream.itself = stream  # only the interpreter's end lets go of it
"""


async def test_a_stream_that_outlives_its_program(run_python: Run, server: Server) -> None:
    server.stream = never_ends
    async with asyncio.timeout(20):
        finished = await run_python("-W", "error", "-c", HELD_AT_THE_END, server.target)

    assert (finished.out, finished.err, finished.code) == ("Hello \n", "", 0)
    await server.was_cut_off()
