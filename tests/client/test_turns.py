"""Calls on one session take turns, and what a stream that broke off leaves behind."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from penstock import v1
from penstock._turns import Turns

from tests.client.conftest import answer, delta
from tests.client.faces import Face, until

if TYPE_CHECKING:
    from tests.client.conftest import Server

MakeSession = Callable[..., Face]


def said(session: Face) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in session.behind.messages]


class Gate:
    """A server's handler that answers one call after the other, when it is told."""

    def __init__(self, server: Server) -> None:
        self.running = 0
        self.most = 0
        self.open = asyncio.Semaphore(0)
        server.generate = self.generate

    async def generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.acquire()
            return answer(f"to {penstock.text_of(request.messages[-1])}")
        finally:
            self.running -= 1


def queued(server: Server, session: Face, number: int) -> bool:
    return bool(server.calls) and waiting(session) == number


def waiting(session: Face) -> int:
    return len(session.behind._turns._waiting)


@pytest.mark.parametrize("mixed", [False, True], ids=["one flavour", "mixed"])
async def test_eight_calls_at_once(
    flavour: str, make_session: MakeSession, server: Server, mixed: bool
) -> None:
    gate = Gate(server)
    session = make_session()
    tasks = []
    for number in range(8):
        other = {"sync": "aio", "aio": "sync"}[flavour] if mixed and number % 2 else flavour
        face = Face(other, session.behind)
        tasks.append(asyncio.create_task(face.generate(f"question {number}")))
        # Asked for when the one before stands in the queue: that is the order of asking.
        await until(functools.partial(queued, server, session, number))
    for _ in tasks:
        gate.open.release()
    await asyncio.gather(*tasks)

    assert gate.most == 1
    texts = [text for _, text in said(session)]
    assert texts == [
        text for number in range(8) for text in (f"question {number}", f"to question {number}")
    ]
    assert [len(call.request.messages) for call in server.calls] == list(range(1, 16, 2))


async def test_who_is_cancelled_leaves_the_queue(make_session: MakeSession, server: Server) -> None:
    gate = Gate(server)
    session = make_session()
    behind = session.behind
    first = asyncio.create_task(behind.agenerate("first"))
    await until(lambda: server.calls)
    second = asyncio.create_task(behind.agenerate("second"))
    await until(lambda: waiting(session) == 1)
    third = asyncio.create_task(session.generate("third"))
    await until(lambda: waiting(session) == 2)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.open.release()
    gate.open.release()
    await asyncio.gather(first, third)

    assert [text for _, text in said(session)][::2] == ["first", "third"]
    assert len(server.calls) == 2


async def test_a_failed_call_passes_the_turn_on(make_session: MakeSession, server: Server) -> None:
    async def generate(request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        if penstock.text_of(request.messages[-1]) == "fail":
            await context.abort(grpc.StatusCode.INTERNAL, "broken")
        return answer()

    server.generate = generate
    session = make_session()
    prompts = ["fail", "a", "fail", "b"]
    calls = (session.generate(prompt) for prompt in prompts)
    results = await asyncio.gather(*calls, return_exceptions=True)

    failed = [isinstance(result, penstock.InternalError) for result in results]
    assert failed == [True, False, True, False]
    assert len(said(session)) == 4


async def test_turns_are_never_lost() -> None:
    """Many who come, go and give up at any moment: everybody who stays gets a turn, alone."""
    turns = Turns()
    inside: list[int] = []
    done: list[int] = []

    async def task(number: int) -> None:
        ticket = await turns.await_turn()
        inside.append(number)
        try:
            assert len(inside) == 1
            await asyncio.sleep(0)
            done.append(number)
        finally:
            inside.remove(number)
            turns.done(ticket)
            turns.done(ticket)  # once is enough

    def thread(number: int) -> None:
        ticket = turns.wait()
        inside.append(number)
        assert len(inside) == 1
        inside.remove(number)
        done.append(number)
        turns.done(ticket)

    tasks = [asyncio.create_task(task(number)) for number in range(200)]
    threads = [threading.Thread(target=thread, args=(number,)) for number in range(200, 220)]
    for each in threads:
        each.start()
    await asyncio.sleep(0)
    for one in tasks[::3]:
        one.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for each in threads:
        await asyncio.to_thread(each.join, 10)

    assert [result for result in results if isinstance(result, AssertionError)] == []
    assert set(done) >= set(range(200, 220)) | {n for n in range(200) if n % 3}
    ticket = turns.wait()  # it is free
    turns.done(ticket)


async def test_waiting_would_stop_the_event_loop(server: Server) -> None:
    Gate(server)
    async with penstock.create_llm("test", "model", target=server.target) as llm:
        session = penstock.BasicSession(llm)
        task = asyncio.create_task(session.agenerate("Hi"))
        await until(lambda: server.calls)
        with pytest.raises(RuntimeError, match="await the asynchronous twin"):
            session.generate("Hi")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- streams ----------------------------------------------------------------------------------


async def never_ends(request: Any, context: Any) -> Any:
    yield delta("Hello ")
    yield delta("there")
    await asyncio.Event().wait()


async def breaks(request: Any, context: Any) -> Any:
    yield delta("Hello ")
    yield delta("there")
    await context.abort(grpc.StatusCode.INTERNAL, "broken")


async def test_a_whole_stream(make_session: MakeSession, server: Server) -> None:
    session = make_session()
    stream = await session.generate("Hi", stream=True)
    assert said(session) == []
    async for _ in stream:
        pass

    assert said(session) == [("user", "Hi"), ("assistant", "Hello there.")]
    assert session.behind.messages[1].metadata == {}
    assert session.behind.messages[1].wire is not None


async def read_two(stream: Any) -> None:
    await anext(stream)
    await anext(stream)


async def leave_the_loop(session: Face) -> None:
    texts = []
    async for chunk in await session.generate("Hi", stream=True):
        texts.append(chunk.content)
        if len(texts) == 2:
            break


async def leave_the_with(session: Face) -> None:
    async with await session.generate("Hi", stream=True) as stream:
        await read_two(stream)


async def close(session: Face) -> None:
    stream = await session.generate("Hi", stream=True)
    await read_two(stream)
    await stream.aclose()


async def let_go(session: Face) -> None:
    await read_two(await session.generate("Hi", stream=True))


@pytest.mark.parametrize("way", [leave_the_loop, leave_the_with, close, let_go])
async def test_broken_off(make_session: MakeSession, server: Server, way: Any) -> None:
    server.stream = never_ends
    session = make_session()
    await way(session)

    await until(lambda: said(session))  # threads may hold the stream a moment longer
    assert said(session) == [("user", "Hi"), ("assistant", "Hello there")]
    assert session.behind.messages[1].metadata == {"incomplete": True, "error": "broken off"}
    await server.was_cut_off()
    await session.generate("Go on.")  # the turn is free, and the model sees what it had said
    assert [penstock.text_of(m) for m in server.calls[1].request.messages] == [
        *("Hi", "Hello there", "Go on."),
    ]


async def test_what_had_arrived_is_there_at_once(server: Server) -> None:
    server.stream = never_ends
    async with penstock.create_llm("test", "model", target=server.target) as llm:
        session = penstock.BasicSession(llm)

        def work() -> None:
            for _ in session.generate("Hi", stream=True):
                break
            assert [message.content for message in session.messages] == ["Hi", "Hello "]

        await asyncio.to_thread(work)
        async for _ in await session.agenerate("Hi", stream=True):
            break
        assert len(session.messages) == 4


async def test_a_failure_on_the_way(make_session: MakeSession, server: Server) -> None:
    server.stream = breaks
    session = make_session()
    with pytest.raises(penstock.InternalError, match="broken"):
        async for _ in await session.generate("Hi", stream=True):
            pass

    assert said(session) == [("user", "Hi"), ("assistant", "Hello there")]
    assert session.behind.messages[1].metadata["incomplete"] is True
    assert "broken" in session.behind.messages[1].metadata["error"]
    await session.generate("Go on.")


@pytest.mark.parametrize("way", ["close", "let go"])
async def test_unread_streams_leave_the_history(
    make_session: MakeSession, server: Server, way: str
) -> None:
    server.stream = never_ends
    session = make_session()
    stream = await session.generate("Hi", stream=True)
    if way == "close":
        await stream.aclose()
    del stream

    assert said(session) == []
    await session.generate("Hi")
    assert len(said(session)) == 2


async def test_a_cancelled_task(server: Server) -> None:
    server.stream = never_ends
    async with penstock.create_llm("test", "model", target=server.target) as llm:
        session = penstock.BasicSession(llm)
        got: list[str | None] = []

        async def read() -> None:
            async for chunk in await session.agenerate("Hi", stream=True):
                got.append(chunk.content)

        task = asyncio.create_task(read())
        await until(lambda: len(got) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert [message.content for message in session.messages] == ["Hi", "Hello there"]
        assert session.messages[1].metadata["error"] == "CancelledError"
        await server.was_cut_off()
        await session.agenerate("Go on.")


async def test_a_stream_keeps_its_turn(make_session: MakeSession, server: Server) -> None:
    server.stream = never_ends
    session = make_session()
    stream = await session.generate("first", stream=True)
    await read_two(stream)
    other = threading.Thread(target=session.behind.generate, args=("second",))
    other.start()
    await until(lambda: waiting(session) == 1)
    await stream.aclose()
    await asyncio.to_thread(other.join, 10)

    assert [text for role, text in said(session) if role == "user"] == ["first", "second"]


async def test_asking_on_while_reading_is_refused(server: Server) -> None:
    """It would wait for a stream that only the caller itself can end."""
    server.stream = never_ends
    async with penstock.create_llm("test", "model", target=server.target) as llm:
        session = penstock.BasicSession(llm)
        stream = await session.agenerate("Hi", stream=True)
        await anext(stream)
        with pytest.raises(RuntimeError, match="half read right here"):
            await session.agenerate("And?")
        await stream.aclose()
        await session.agenerate("And?")

        def work() -> None:
            with session.generate("Hi", stream=True) as chunks:
                next(chunks)
                with pytest.raises(RuntimeError, match="half read right here"):
                    session.generate("And?")
            session.generate("And?")

        await asyncio.to_thread(work)
    assert len(session.messages) == 8
