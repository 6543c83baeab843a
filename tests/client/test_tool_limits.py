"""Tools in both flavours: side by side, on time, and cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from penstock.events import Event, EventEmitter, EventType
from penstock.tools import (
    aexecute_tools,
    execute_tools,
)

from tests.client.calling import Execute, add, add_later, call
from tests.support.processes import until

if TYPE_CHECKING:
    from tests.client.conftest import Start

# --- side by side, on time ----------------------------------------------------------------------


async def test_tools_run_side_by_side_and_answer_in_order(execute: Execute) -> None:
    together = threading.Barrier(12, timeout=20)

    def meet(n: int) -> int:
        together.wait()
        return n

    async def ameet(n: int) -> int:
        await asyncio.get_running_loop().run_in_executor(None, together.wait)
        return n

    calls = [call("ameet" if n in (3, 7) else "meet", str(n), n=n) for n in range(12)]
    results = await execute(calls, [meet, ameet])
    assert [result["result"] for result in results] == list(range(12))
    assert [result["call_id"] for result in results] == [str(n) for n in range(12)]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_max_concurrency(execute: Execute, asynchronous: bool) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def enter(n: int) -> None:
        nonlocal now, most
        with lock:
            now += n
            most = max(most, now)

    def work() -> None:
        enter(1)
        time.sleep(0.01)
        enter(-1)

    async def awork() -> None:
        enter(1)
        await asyncio.sleep(0.01)
        enter(-1)

    tools = {"work": awork if asynchronous else work}
    results = await execute([call("work")] * 9, tools, timeout=20, max_concurrency=3)
    assert all("result" in result for result in results)
    assert most == 3


async def test_time_runs_from_a_tools_own_start(execute: Execute) -> None:
    async def work() -> str:
        await asyncio.sleep(0.2)
        return "done"

    results = await execute([call("work")] * 4, [work], timeout=0.6, max_concurrency=1)
    assert [result.get("result") for result in results] == ["done"] * 4


async def test_an_async_tool_out_of_time_is_cancelled(execute: Execute) -> None:
    ended = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def stubborn() -> str:
        while not ended.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await until(ended.is_set)
        return "late"

    began = time.monotonic()
    results = await execute([call("wait"), call("stubborn")], [wait, stubborn], timeout=0.1)
    assert time.monotonic() - began < 3
    assert [result["error"] for result in results] == [
        "Tool wait timed out after 0.1 s",
        "Tool stubborn timed out after 0.1 s",
    ]
    await until(ended.is_set)


def test_an_async_tool_that_blocks_does_not_stop_the_others() -> None:
    """In the sync flavour; in the other one it is the caller's own loop that it blocks."""
    gate = threading.Event()

    async def block() -> None:
        gate.wait(20)

    try:
        began = time.monotonic()
        blocked = execute_tools([call("block"), call("add", a=1)], [block, add], timeout=0.2)
        after = execute_tools([call("add_later", a=2)], [add_later], timeout=10)
        assert time.monotonic() - began < 5
    finally:
        gate.set()
    assert blocked[0]["error"] == "Tool block timed out after 0.2 s"
    assert blocked[1]["result"] == 1
    assert after[0]["result"] == 2


def test_synchronous_callers_share_one_loop() -> None:
    """So that what is bound to a loop can be kept from one call to the next."""

    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def late() -> None:
        await asyncio.sleep(20)

    def one() -> Any:
        return execute_tools([call("loop")], [loop])[0]["result"]

    first = one()
    execute_tools([call("late")], [late], timeout=0.05)
    assert one() is first


async def test_an_awaitable_from_a_function_is_awaited(flavour: str, execute: Execute) -> None:
    loops = []

    async def later(n: int) -> int:
        loops.append(asyncio.get_running_loop())
        return n + 1

    async def never() -> None:
        await asyncio.Event().wait()

    tools = {"inner": lambda n: later(n), "never": lambda: never()}
    results = await execute([call("inner", n=1), call("never")], tools, timeout=0.2)
    assert results[0]["result"] == 2
    assert results[1]["error"] == "Tool never timed out after 0.2 s"
    assert (loops[0] is asyncio.get_running_loop()) == (flavour == "aio")


async def test_where_tools_run(flavour: str, execute: Execute) -> None:
    async def coroutine() -> tuple[Any, Any]:
        return asyncio.get_running_loop(), threading.current_thread()

    tools = {"function": threading.current_thread, "coroutine": coroutine}
    function, native = await execute([call("function"), call("coroutine")], tools)
    assert function["result"].daemon
    assert function["result"] is not threading.current_thread()
    loop, thread = native["result"]
    assert (loop is asyncio.get_running_loop()) == (flavour == "aio")
    assert thread.daemon == (flavour == "sync")


async def test_context_variables_reach_tools(execute: Execute) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    def function() -> str:
        return variable.get()

    async def coroutine() -> str:
        return variable.get()

    variable.set("the caller's")
    results = await execute([call("function"), call("coroutine")], [function, coroutine])
    assert [result["result"] for result in results] == ["the caller's"] * 2


async def test_a_tool_may_run_tools(flavour: str, execute: Execute) -> None:
    def nested() -> Any:
        return execute_tools([call("add_later", a=1)], [add_later])[0]

    async def anested() -> Any:
        return (await aexecute_tools([call("add", a=1)], [add]))[0]

    results = await execute([call("nested"), call("anested")], [nested, anested], timeout=20)
    assert [result["result"]["result"] for result in results] == [1, 1]
    if flavour == "sync":

        async def wrong() -> Any:
            return execute_tools([call("add_later", a=1)], [add_later])

        [result] = await execute([call("wrong")], [wrong], timeout=20)
        assert "use aexecute_tools" in result["error"]


# --- cancelling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_cancelling_cancels_the_tools_and_returns_at_once(how: str) -> None:
    gate, began, cancelled = threading.Event(), threading.Event(), asyncio.Event()

    def function() -> None:
        began.set()
        gate.wait(20)

    async def coroutine() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await until(gate.is_set)  # it takes its time
            cancelled.set()
            raise

    emitter = EventEmitter(handler_timeout=20)
    completed: list[Event] = []
    emitter.on(EventType.TOOL_COMPLETED, completed.append)
    calls = [call("function"), call("coroutine"), call("function")]
    running = aexecute_tools(calls, [function, coroutine], emitter=emitter, max_concurrency=2)
    since = time.monotonic()
    if how == "cancel":
        task = asyncio.create_task(running)
        await until(began.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await running
    assert time.monotonic() - since < 5
    gate.set()
    await asyncio.wait_for(cancelled.wait(), 10)
    await until(lambda: len(completed) == 2)
    assert {event.data["error"] for event in completed} == {"cancelled"}
    assert not any(event.data["success"] for event in completed)


@pytest.mark.parametrize("flavour", ["sync", "aio"])
async def test_ctrl_c(flavour: str, start_python: Start) -> None:
    """Ends the call at once, cancels asynchronous tools, and lets the process go."""
    process = await start_python(
        *("-X", "dev", "-W", "error", "-c"),
        """if True:
            import asyncio, os, sys, threading, time
            from penstock.tools import aexecute_tools, execute_tools
            cancelled = threading.Event()
            waiting = threading.Event()
            async def coroutine():
                waiting.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    cancelled.set()
            def function():
                waiting.wait(20)
                os.write(1, b"running\\n")
                time.sleep(60)
            calls = [{"name": "coroutine"}, {"name": "function"}]
            tools = [coroutine, function]
            try:
                if sys.argv[1] == "sync":
                    execute_tools(calls, tools)
                else:
                    asyncio.run(aexecute_tools(calls, tools))
            except KeyboardInterrupt:
                print("interrupted", cancelled.wait(10))
        """,
        flavour,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"running\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (out, err, process.returncode) == (b"interrupted True\n", b"", 0)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("flavour", ["sync", "aio"])
async def test_a_hanging_tool_does_not_keep_a_process(flavour: str, start_python: Start) -> None:
    process = await start_python(
        *("-X", "dev", "-W", "error", "-c"),
        """if True:
            import asyncio, sys, time
            from penstock.tools import aexecute_tools, execute_tools
            async def coroutine():
                await asyncio.sleep(60)
            def function():
                time.sleep(60)
            args = [{"name": "coroutine"}, {"name": "function"}], [coroutine, function], 0.1
            if sys.argv[1] == "sync":
                results = execute_tools(*args)
            else:
                results = asyncio.run(aexecute_tools(*args))
            print(len(results), flush=True)
        """,
        flavour,
    )
    began = time.monotonic()
    out, err = await process.communicate()
    assert (out, err, process.returncode) == (b"2\n", b"", 0)
    assert time.monotonic() - began < 20
