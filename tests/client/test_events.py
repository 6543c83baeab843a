"""Events in both flavours: one body emits with ``emit`` in a thread and with ``aemit``."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import math
import os
import signal
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from penstock import events
from penstock.events import (
    AsyncEventEmitter,
    Event,
    EventEmitter,
    EventType,
    GlobalEventBus,
    create_generation_event,
    create_tool_event,
)

from tests.support.processes import until

if TYPE_CHECKING:
    from tests.client.conftest import Run, Start

Emit: TypeAlias = Callable[..., Awaitable[Event]]

PROGRESS = EventType.TOOL_PROGRESS
DONE = EventType.TOOL_COMPLETED


@pytest.fixture
def emit(flavour: str) -> Emit:
    """``await emit(emitter, type, …)``. The thread of the sync flavour runs no event loop."""

    async def in_thread(emitter: EventEmitter, *args: Any, **kwargs: Any) -> Event:
        return await asyncio.to_thread(emitter.emit, *args, **kwargs)

    async def here(emitter: EventEmitter, *args: Any, **kwargs: Any) -> Event:
        return await emitter.aemit(*args, **kwargs)

    return in_thread if flavour == "sync" else here


@pytest.fixture(autouse=True)
def clean_bus() -> Iterator[None]:
    GlobalEventBus.clear()
    yield
    GlobalEventBus.clear()


@pytest.fixture(params=["function", "coroutine"])
def kind(request: pytest.FixtureRequest) -> str:
    """What handlers are."""
    return str(request.param)


class Gate:
    """A handler that records what it sees, and stands still while closed."""

    def __init__(self, kind: str, *, is_open: bool = False) -> None:
        self.seen: list[int] = []
        self.began = threading.Event()
        self.may_go = threading.Event()
        if is_open:
            self.may_go.set()
        self.handler = self._function if kind == "function" else self._coroutine

    def _function(self, event: Event) -> None:
        self.began.set()
        assert self.may_go.wait(20)
        self.seen.append(event.data["n"])

    async def _coroutine(self, event: Event) -> None:
        self.began.set()
        await until(self.may_go.is_set)
        self.seen.append(event.data["n"])


# --- what handlers get --------------------------------------------------------------------------


async def test_functions_and_coroutine_functions_are_called(emit: Emit) -> None:
    emitter = EventEmitter(handler_timeout=20)
    got: list[tuple[str, Event]] = []

    @emitter.on(PROGRESS)
    def function(event: Event) -> None:
        got.append(("function", event))

    @emitter.on(PROGRESS)
    async def coroutine(event: Event) -> None:
        await asyncio.sleep(0)
        got.append(("coroutine", event))

    emitter.on(PROGRESS, lambda event: coroutine(event))
    emitter.on_async(PROGRESS, lambda event: coroutine(event))
    data = {"percent": 1}
    event = await emit(emitter, PROGRESS, data, "here", tool_name="t")

    assert sorted(name for name, _ in got) == [*["coroutine"] * 3, "function"]
    assert all(each is event for _, each in got)
    assert (event.type, event.source) == (PROGRESS, "here")
    assert event.data == {"percent": 1, "tool_name": "t"}
    assert data == {"percent": 1}
    assert event.timestamp.tzinfo is UTC
    assert event.timestamp.utcoffset() == timedelta(0)


async def test_types(emit: Emit) -> None:
    emitter = AsyncEventEmitter()
    seen: list[str] = []
    emitter.on("tool_progress", lambda event: seen.append("text"))
    emitter.on("*", lambda event: seen.append("star"))
    emitter.on(None, lambda event: seen.append("none"))

    await emit(emitter, "tool_progress")
    assert sorted(seen) == ["none", "star", "text"]
    seen.clear()
    await emit(emitter, EventType.ERROR)
    assert sorted(seen) == ["none", "star"]
    with pytest.raises(ValueError, match="tool_progres"):
        await emit(emitter, "tool_progres")
    with pytest.raises(ValueError, match="nonsense"):
        emitter.on("nonsense", print)
    with pytest.raises(TypeError, match="cannot be called"):
        emitter.on(EventType.ERROR, 5)  # type: ignore[call-overload]


def test_the_types_are_those_that_users_know() -> None:
    assert len(EventType) == 17
    assert all(kind.value == kind.name.lower() for kind in EventType)
    assert isinstance(EventType.ERROR, str)
    assert f"{EventType.ERROR}" == "error"


async def test_context_variables_reach_handlers(emit: Emit, kind: str) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    emitter = EventEmitter(handler_timeout=20)
    seen = []

    async def coroutine(event: Event) -> None:
        seen.append(variable.get())

    def function(event: Event) -> None:
        seen.append(variable.get())
        variable.set("the handler's own")

    emitter.on(DONE, function if kind == "function" else coroutine)
    variable.set("the caller's")
    await emit(emitter, DONE)
    await emit(emitter, DONE)

    assert seen == ["the caller's"] * 2
    assert variable.get() == "the caller's"


async def test_where_handlers_run(flavour: str, emit: Emit) -> None:
    emitter = EventEmitter(handler_timeout=20)
    threads, loops = [], []
    emitter.on(DONE, lambda event: threads.append(threading.current_thread()))

    @emitter.on(DONE)
    async def coroutine(event: Event) -> None:
        loops.append((asyncio.get_running_loop(), threading.current_thread()))

    await emit(emitter, DONE)
    await emit(emitter, DONE)

    assert all(thread.daemon and thread is not threading.current_thread() for thread in threads)
    first, second = loops
    assert first == second
    assert (first[0] is asyncio.get_running_loop()) == (flavour == "aio")
    assert first[1].daemon == (flavour == "sync")


# --- coming and going ---------------------------------------------------------------------------


async def test_off(emit: Emit, kind: str) -> None:
    emitter = EventEmitter(handler_timeout=20)
    gate = Gate(kind, is_open=True)
    emitter.on(DONE, gate.handler)
    emitter.on(DONE, gate.handler)

    await emit(emitter, DONE, n=1)
    assert emitter.off(DONE, gate.handler)
    await emit(emitter, DONE, n=2)
    assert emitter.off_async(DONE, gate.handler)
    await emit(emitter, DONE, n=3)

    assert gate.seen == [1, 1, 2]
    assert not emitter.off(DONE, gate.handler)
    assert not emitter.has_listeners(DONE)
    emitter.on(DONE, gate.handler)
    emitter.clear()
    assert not emitter.has_listeners(DONE)


async def test_once_is_once_from_many_threads(kind: str) -> None:
    emitter = EventEmitter(handler_timeout=20)
    gate = Gate(kind, is_open=True)
    always = Gate(kind, is_open=True)
    emitter.once(DONE, gate.handler)
    emitter.once("*", gate.handler)
    emitter.on(DONE, always.handler)
    together = threading.Barrier(4, timeout=20)

    def one(n: int) -> None:
        together.wait()
        emitter.emit(DONE, n=n)

    await asyncio.gather(*(asyncio.to_thread(one, n) for n in range(4)))

    assert len(gate.seen) == 2
    assert sorted(always.seen) == list(range(4))


async def test_handlers_may_come_and_go_while_they_are_called(emit: Emit) -> None:
    emitter = EventEmitter(handler_timeout=20)
    seen: list[str] = []

    @emitter.on(DONE)
    def first(event: Event) -> None:
        seen.append("first")
        emitter.off(DONE, first)
        emitter.off(DONE, second)
        emitter.on(DONE, third)

    @emitter.on(DONE)
    async def second(event: Event) -> None:
        seen.append("second")

    def third(event: Event) -> None:
        seen.append("third")

    await emit(emitter, DONE)
    assert sorted(seen) == ["first", "second"]
    await emit(emitter, DONE)
    assert sorted(seen) == ["first", "second", "third"]


async def test_handlers_may_emit(emit: Emit, kind: str) -> None:
    """In a circle, too: none waits for another, nor for itself."""
    emitter = EventEmitter(handler_timeout=20)
    seen: list[tuple[str, int]] = []
    all_seen = threading.Event()

    @emitter.on(PROGRESS)
    def one(event: Event) -> None:
        seen.append(("one", event.data["n"]))
        emitter.emit(DONE, n=event.data["n"])

    def function(event: Event) -> None:
        n = event.data["n"]
        seen.append(("other", n))
        if n < 3:
            emitter.emit(PROGRESS, n=n + 1)
        else:
            all_seen.set()

    async def coroutine(event: Event) -> None:
        n = event.data["n"]
        seen.append(("other", n))
        if n < 3:
            await emitter.aemit(PROGRESS, n=n + 1)
            await emitter.aemit(DONE, n=3)
        else:
            all_seen.set()

    emitter.on(DONE, function if kind == "function" else coroutine)
    began = time.monotonic()
    await emit(emitter, PROGRESS, n=1)
    await until(all_seen.is_set)
    assert time.monotonic() - began < 10
    await until(lambda: ("other", 3) in seen and ("one", 3) in seen)
    assert [n for who, n in seen if who == "one"] == [1, 2, 3]


# --- failures and hangs -------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError("no good"), SystemExit(3), KeyboardInterrupt()])
async def test_a_failing_handler_is_logged(
    emit: Emit, kind: str, flavour: str, failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(failure, KeyboardInterrupt) and (kind, flavour) == ("coroutine", "aio"):
        pytest.skip("in the main thread it is Ctrl-C")
    emitter = EventEmitter(handler_timeout=20)

    def function(event: Event) -> None:
        raise failure

    async def coroutine(event: Event) -> None:
        raise failure

    gate = Gate("function", is_open=True)
    emitter.on(DONE, function if kind == "function" else coroutine)
    emitter.on(DONE, gate.handler)
    await emit(emitter, DONE, n=1)
    await emit(emitter, DONE, n=2)

    assert gate.seen == [1, 2]
    records = [record for record in caplog.records if record.name == "penstock.events"]
    assert len(records) == 2
    assert "failed on tool_completed" in records[0].getMessage()
    assert kind in records[0].getMessage()
    assert records[0].exc_info is not None
    assert records[0].exc_info[1] is failure


async def test_a_hanging_handler_is_waited_for_once(
    emit: Emit, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    emitter = EventEmitter(handler_timeout=0.3)
    hanging, other = Gate(kind), Gate(kind, is_open=True)
    emitter.on(DONE, hanging.handler)
    emitter.on(DONE, other.handler)

    began = time.monotonic()
    await emit(emitter, DONE, n=0)
    first = time.monotonic() - began
    for n in range(1, 20):
        await emit(emitter, DONE, n=n)
    rest = time.monotonic() - began - first

    assert 0.25 < first < 3
    assert rest < 3  # and not 19 times 0.3
    assert other.seen == list(range(20))
    assert hanging.seen == []
    hanging.may_go.set()
    await until(lambda: len(hanging.seen) == 20)
    assert hanging.seen == list(range(20))
    assert sum("not waited for" in each.getMessage() for each in caplog.records) == 1

    # It has caught up, or is about to: from then on it is waited for as before.
    async with asyncio.timeout(10):
        for n in range(20, 10_000):
            await emit(emitter, DONE, n=n)
            if hanging.seen[-1] == n:
                break
    assert hanging.seen == list(range(n + 1))


async def test_a_full_queue_drops_and_counts(
    emit: Emit, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    emitter = EventEmitter(handler_timeout=0.05, queue_size=3)
    gate = Gate(kind)
    emitter.on(DONE, gate.handler)
    for n in range(9):
        await emit(emitter, DONE, n=n)

    assert emitter.dropped == 5
    assert sum("dropped" in each.getMessage() for each in caplog.records) == 1
    gate.may_go.set()
    await until(lambda: len(gate.seen) == 4)
    assert gate.seen == [0, 1, 2, 3]


async def test_never_waiting(emit: Emit, kind: str) -> None:
    emitter = EventEmitter(handler_timeout=0)
    gate = Gate(kind)
    emitter.on(DONE, gate.handler)
    for n in range(3):
        await emit(emitter, DONE, n=n)
    assert gate.seen == []
    gate.may_go.set()
    await until(lambda: gate.seen == [0, 1, 2])


async def test_waiting_without_a_limit(emit: Emit, kind: str) -> None:
    emitter = EventEmitter(handler_timeout=math.inf)
    gate = Gate(kind)
    emitter.on(DONE, gate.handler)
    emitting = asyncio.ensure_future(emit(emitter, DONE, n=1))
    await until(gate.began.is_set)
    assert not emitting.done()
    gate.may_go.set()
    await emitting
    assert gate.seen == [1]


# --- order, threads, loops ----------------------------------------------------------------------


async def test_order_from_many_threads(kind: str) -> None:
    emitter = EventEmitter(handler_timeout=20)
    seen: list[tuple[int, int]] = []
    at_once = [0, 0]

    def record(event: Event) -> None:
        at_once[0] += 1
        at_once[1] = max(at_once)
        seen.append((event.data["who"], event.data["n"]))
        at_once[0] -= 1

    async def coroutine(event: Event) -> None:
        record(event)

    emitter.on(DONE, record if kind == "function" else coroutine)

    def many(who: int) -> None:
        for n in range(50):
            emitter.emit(DONE, who=who, n=n)

    await asyncio.gather(*(asyncio.to_thread(many, who) for who in range(4)))

    assert at_once[1] == 1
    for who in range(4):
        assert [n for one, n in seen if one == who] == list(range(50))


async def test_emit_does_not_block_a_running_loop(kind: str) -> None:
    emitter = EventEmitter(handler_timeout=20)
    gate = Gate(kind)
    emitter.on(DONE, gate.handler)

    began = time.monotonic()
    for n in range(300):
        emitter.emit(DONE, n=n)
    assert time.monotonic() - began < 5

    await until(gate.began.is_set)
    gate.may_go.set()
    await until(lambda: len(gate.seen) == 300)
    assert gate.seen == list(range(300))


async def test_a_cancelled_emit_ends_at_once_and_handlers_go_on(kind: str) -> None:
    emitter = EventEmitter(handler_timeout=20, parent=GlobalEventBus.emitter)
    gates = [Gate(kind), Gate(kind)]
    emitter.on(DONE, gates[0].handler)
    GlobalEventBus.on(DONE, gates[1].handler)

    task = asyncio.create_task(emitter.aemit(DONE, n=1))
    await until(lambda: all(gate.began.is_set() for gate in gates))
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await emitter.aemit(DONE, n=2)
    assert time.monotonic() - began < 5

    for gate in gates:
        gate.may_go.set()
    await until(lambda: all(gate.seen == [1, 2] for gate in gates))
    await emitter.aemit(DONE, n=3)
    assert [gate.seen for gate in gates] == [[1, 2, 3]] * 2


async def test_a_running_handler_is_not_garbage() -> None:
    emitter = EventEmitter(handler_timeout=0.05)
    waits: list[weakref.ref[asyncio.Future[None]]] = []
    ended = []

    @emitter.on(DONE)
    async def waiting(event: Event) -> None:
        future = asyncio.get_running_loop().create_future()
        waits.append(weakref.ref(future))
        await future
        ended.append(True)

    await emitter.aemit(DONE)
    gc.collect()
    future = waits[0]()
    assert future is not None
    future.set_result(None)
    del future
    await until(lambda: bool(ended))


def test_what_a_loop_leaves_behind_is_delivered_elsewhere() -> None:
    emitter = EventEmitter(handler_timeout=0.05)
    seen: list[int] = []
    all_seen = threading.Event()

    @emitter.on(DONE)
    async def first_for_ever(event: Event) -> None:
        if event.data["n"] == 0:
            await asyncio.Event().wait()
        seen.append(event.data["n"])
        if event.data["n"] == 3:
            all_seen.set()

    async def main() -> None:
        for n in range(4):
            await emitter.aemit(DONE, n=n)

    asyncio.run(main())
    assert all_seen.wait(10)
    assert seen == [1, 2, 3]


async def test_one_emitter_serves_both_worlds_in_order(kind: str) -> None:
    emitter = EventEmitter(handler_timeout=20)
    gate = Gate(kind)
    emitter.on(DONE, gate.handler)
    emitting: list[Awaitable[Any]] = []
    for n in range(10):
        if n % 2:
            emitting.append(asyncio.create_task(emitter.aemit(DONE, n=n)))
            await asyncio.sleep(0)  # up to its wait
        else:
            emitter.emit(DONE, n=n)
    gate.may_go.set()
    await asyncio.gather(*emitting)
    assert gate.seen == list(range(10))


# --- parents and the bus ------------------------------------------------------------------------


async def test_events_go_on_to_the_parent(emit: Emit, kind: str) -> None:
    child = EventEmitter(parent=EventEmitter(parent=GlobalEventBus.emitter), handler_timeout=20)
    top, own = Gate(kind, is_open=True), Gate(kind, is_open=True)
    assert not child.has_listeners(DONE)
    events.on_global(DONE, top.handler)
    assert child.has_listeners(DONE)
    await emit(child, DONE, n=1)
    child.on(DONE, own.handler)
    await emit(child, DONE, n=2)
    await emit(GlobalEventBus.emitter, DONE, n=3)

    assert top.seen == [1, 2, 3]
    assert own.seen == [2]


async def test_the_bus(flavour: str, kind: str) -> None:
    gate, once = Gate(kind, is_open=True), Gate(kind, is_open=True)
    GlobalEventBus.on(DONE, gate.handler)
    GlobalEventBus.once(DONE, once.handler)
    if flavour == "sync":
        await asyncio.to_thread(GlobalEventBus.emit, DONE, {"n": 1})
        await asyncio.to_thread(events.emit_global, DONE, {}, "here", n=2)
    else:
        await GlobalEventBus.aemit(DONE, {"n": 1})
        await events.aemit_global(DONE, {}, "here", n=2)
        await GlobalEventBus.emit_async(DONE, n=3)

    assert gate.seen == ([1, 2] if flavour == "sync" else [1, 2, 3])
    assert once.seen == [1]
    assert GlobalEventBus.off(DONE, gate.handler)
    GlobalEventBus.on_async(DONE, gate.handler)
    assert GlobalEventBus.off_async(DONE, gate.handler)
    assert not GlobalEventBus.has_listeners(DONE)


async def test_errors_are_events(flavour: str) -> None:
    emitter = EventEmitter(handler_timeout=20)
    seen: list[Event] = []
    emitter.on("error", seen.append)
    error, context = KeyError("city"), {"operation": "generate"}
    if flavour == "sync":
        event = await asyncio.to_thread(emitter.emit_error, error, context)
    else:
        event = await emitter.aemit_error(error, context)

    assert seen == [event]
    assert event.data == {"error": "'city'", "error_type": "KeyError", "context": context}


def test_each_method_has_its_twin() -> None:
    twins = {"emit": "aemit", "emit_error": "aemit_error"}
    for plain, twin in twins.items():
        one, other = getattr(EventEmitter, plain), getattr(EventEmitter, twin)
        assert inspect.signature(one) == inspect.signature(other)
        assert inspect.iscoroutinefunction(other)
    assert inspect.signature(EventEmitter.emit_async) == inspect.signature(EventEmitter.emit)
    for name in dir(EventEmitter):
        if not name.startswith("_") and name != "dropped":
            assert getattr(GlobalEventBus, name)
            assert getattr(EventEmitter, name).__doc__


def test_data_of_known_events() -> None:
    data, known = create_generation_event("tiny", "local", tokens_output=7, stream=True)
    assert (data, known) == (
        {"stream": True},
        {"model": "tiny", "provider": "local", "tokens_output": 7},
    )
    event = EventEmitter().emit(EventType.GENERATION_COMPLETED, data, **known)
    assert event.data == {**data, **known}
    assert create_tool_event("add", {"a": 1}, 3, call_id="1") == {
        "tool_name": "add",
        "arguments": {"a": 1},
        "result": 3,
        "success": True,
        "error": None,
        "call_id": "1",
    }


def test_settings_that_make_no_sense() -> None:
    for timeout in (-1, math.nan):
        with pytest.raises(ValueError, match="handler_timeout"):
            EventEmitter(handler_timeout=timeout)
    with pytest.raises(ValueError, match="queue_size"):
        EventEmitter(queue_size=0)


# --- processes ----------------------------------------------------------------------------------

QUIET = ("-X", "dev", "-W", "error", "-c")


async def test_nothing_starts_while_nobody_listens(run_python: Run) -> None:
    finished = await run_python(
        *QUIET,
        """if True:
            import asyncio, sys, threading
            from penstock import events, tools
            emitter = events.EventEmitter(parent=events.GlobalEventBus.emitter)
            emitter.emit("error")
            emitter.on("error", print)
            emitter.emit("tool_started")
            asyncio.run(emitter.aemit("tool_started"))
            print(threading.active_count(), "pydantic" in sys.modules)
        """,
    )
    assert finished == (0, "1 False\n", "")


async def test_a_process_that_ends_delivers_what_is_queued(run_python: Run) -> None:
    finished = await run_python(
        *QUIET,
        """if True:
            import asyncio, os, time
            from penstock.events import EventEmitter
            emitter = EventEmitter()
            @emitter.on("error")
            def function(event):
                time.sleep(0.05)
                os.write(1, b"function %d\\n" % event.data["n"])
            @emitter.on("error")
            async def coroutine(event):
                await asyncio.sleep(0.05)
                os.write(1, b"coroutine %d\\n" % event.data["n"])
            async def main():
                for n in range(3):
                    emitter.emit("error", n=n)
            asyncio.run(main())
        """,
    )
    assert finished.code == 0
    assert sorted(finished.out.splitlines()) == [
        f"{who} {n}" for who in ("coroutine", "function") for n in range(3)
    ]
    assert finished.err == ""


async def test_a_hanging_handler_does_not_keep_a_process(run_python: Run) -> None:
    began = time.monotonic()
    finished = await run_python(
        *QUIET,
        """if True:
            import asyncio, time
            from penstock.events import EventEmitter
            emitter = EventEmitter(handler_timeout=0.05)
            emitter.on("error", lambda event: time.sleep(60))
            @emitter.on("error")
            async def coroutine(event):
                await asyncio.sleep(60)
            emitter.emit("error")
            asyncio.run(emitter.aemit("error"))
            print("end")
        """,
    )
    assert (finished.code, finished.out) == (0, "end\n")
    assert time.monotonic() - began < 20


async def test_ctrl_c_ends_the_wait(start_python: Start) -> None:
    process = await start_python(
        *QUIET,
        """if True:
            import time
            from penstock.events import EventEmitter
            emitter = EventEmitter(handler_timeout=60)
            @emitter.on("error")
            def hang(event):
                print("hanging", flush=True)
                time.sleep(60)
            emitter.emit("error")
        """,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"hanging\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert b"KeyboardInterrupt" in err
    assert process.returncode == -signal.SIGINT
    assert time.monotonic() - began < 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_forked_child_has_threads_of_its_own(run_python: Run) -> None:
    finished = await run_python(
        *("-W", "error", "-W", "ignore::DeprecationWarning", "-c"),
        """if True:
            import os, threading
            from penstock.events import EventEmitter
            emitter = EventEmitter(handler_timeout=20)
            hang = threading.Event()
            def function(event): os.write(1, b"function %d\\n" % event.data["n"])
            async def coroutine(event): os.write(1, b"coroutine %d\\n" % event.data["n"])
            emitter.on("error", function)
            emitter.on("error", coroutine)
            @emitter.on("tool_started")
            def hang_first(event):
                if event.data["n"] == 1:
                    hang.wait()
                else:
                    function(event)
            emitter.emit("error", n=1)
            EventEmitter(handler_timeout=0, parent=emitter).emit("tool_started", n=1)
            child = os.fork()
            if child == 0:
                emitter.emit("error", n=2)
                emitter.emit("tool_started", n=3)
                os._exit(0)
            os.waitpid(child, 0)
            hang.set()
        """,
    )
    assert finished.code == 0, finished.err
    assert sorted(finished.out.splitlines()) == [
        *("coroutine 1", "coroutine 2", "function 1", "function 2", "function 3")
    ]
