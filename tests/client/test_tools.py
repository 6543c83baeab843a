"""Tools in both flavours: one body runs ``execute_tools`` in a thread and ``aexecute_tools``."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import enum
import functools
import inspect
import json
import math
import os
import signal
import threading
import time
import types
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import pytest
from penstock import v1
from penstock.events import Event, EventEmitter, EventType, GlobalEventBus
from penstock.tools import (
    ToolCall,
    ToolDefinition,
    ToolRegistry,
    aexecute_tools,
    definition_of,
    execute_tools,
    result_text,
    tool,
)
from pydantic import BaseModel, Field

from tests.support.processes import until

if TYPE_CHECKING:
    from tests.client.conftest import Start

Execute: TypeAlias = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def execute(flavour: str) -> Execute:
    """``await execute(calls, tools, …)``. The thread of the sync flavour runs no event loop."""
    if flavour == "aio":
        return aexecute_tools

    async def in_thread(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        return await asyncio.to_thread(execute_tools, *args, **kwargs)

    return in_thread


def call(name: str, call_id: str | None = None, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments, "call_id": call_id}


# --- definitions --------------------------------------------------------------------------------


class Unit(enum.Enum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


class Place(BaseModel):
    """Somewhere."""

    city: str
    country: str | None = None


@dataclasses.dataclass
class Window:
    days: int = 1


@tool(
    tags=["weather"],
    when_to_use="When asked for the weather.",
    examples=[{"description": "Oslo", "arguments": {"place": {"city": "Oslo"}}}],
    hide_args=["key"],
)
def forecast(
    place: Place,
    window: Window,
    unit: Unit = Unit.CELSIUS,
    style: Literal["short", "long"] = "short",
    stations: list[str] | None = None,
    limits: Annotated[dict[str, float], Field(description="By name.")] = {},  # noqa: B006
    note: str = None,  # type: ignore[assignment]  # noqa: RUF013 - as many people write it
    days: int = Field(3, ge=1),
    key: str = "secret",
) -> tuple[Any, ...]:
    """Tells the weather.

    In some detail.

    Args:
        place: where
            it is.
        stations (list[str], optional): which ones.
        limits: not this text.

    Returns:
        place: not this text either.
    """
    return place, window, unit, style, stations, limits, note, days, key


def test_a_definition() -> None:
    definition: ToolDefinition = forecast.tool_definition  # type: ignore[attr-defined]
    assert forecast._tool_definition is definition  # type: ignore[attr-defined]
    assert forecast.tool_name == definition.name == "forecast"  # type: ignore[attr-defined]
    assert definition.function is forecast
    assert definition.description == "Tells the weather.\n\nIn some detail."
    schema = definition.parameters
    assert schema["type"] == "object"
    assert schema["required"] == ["place", "window"]
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == [
        *("place", "window", "unit", "style", "stations", "limits", "note", "days"),
    ]
    assert schema["properties"]["place"] == {
        "$ref": "#/$defs/Place",
        "description": "where it is.",
    }
    assert schema["$defs"]["Place"]["required"] == ["city"]
    assert schema["$defs"]["Unit"]["enum"] == ["celsius", "kelvin"]
    assert schema["properties"]["style"] == {
        "enum": ["short", "long"],
        "type": "string",
        "default": "short",
    }
    assert schema["properties"]["stations"]["description"] == "which ones."
    assert schema["properties"]["limits"]["description"] == "By name."
    assert schema["properties"]["note"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert schema["properties"]["days"] == {"default": 3, "minimum": 1, "type": "integer"}
    assert "secret" not in json.dumps(definition.to_dict())

    told = definition.to_proto()
    assert told.name == "forecast"
    assert json.loads(told.parameters) == schema
    assert told.description == (
        "Tells the weather.\n\nIn some detail.\n\nWhen to use: When asked for the weather."
        '\n\nExamples:\n- Oslo: {"place": {"city": "Oslo"}}'
    )
    assert not told.HasField("strict")
    assert definition.to_dict() == {
        "name": "forecast",
        "description": definition.description,
        "parameters": schema,
        "when_to_use": "When asked for the weather.",
        "tags": ["weather"],
        "examples": [{"description": "Oslo", "arguments": {"place": {"city": "Oslo"}}}],
    }


async def test_arguments_become_what_the_annotations_say(execute: Execute) -> None:
    arguments = {"place": {"city": "Oslo"}, "window": {"days": "2"}, "unit": "kelvin", "days": "4"}
    one, other = await execute(
        [
            call("forecast", "1", **arguments),
            call("forecast", "2", place={"city": "Bø"}, window={}, note=None),
        ],
        [forecast],
    )
    place, window = Place(city="Oslo"), Window(2)
    assert one["result"] == (place, window, Unit.KELVIN, "short", None, {}, None, 4, "secret")
    assert other["result"][-3:] == (None, 3, "secret")


def test_a_tool_stays_a_function() -> None:
    @tool
    def add(a: int, b: int = 2) -> int:
        """Adds.

        :param a: one
            number
        :param int b: the other
        :returns: a: nothing
        """
        return a + b

    @tool(name="other_name", description="Other.", strict=True)
    async def other() -> None:
        """Not told."""

    assert add(1) == 3
    definition = definition_of(add)
    assert definition.description == "Adds."
    assert definition.parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "one number"},
            "b": {"type": "integer", "default": 2, "description": "the other"},
        },
        "required": ["a"],
        "additionalProperties": False,
    }
    assert inspect.iscoroutinefunction(other)
    assert definition_of(other).to_proto() == v1.Tool(
        name="other_name",
        description="Other.",
        parameters='{"type":"object","properties":{},"additionalProperties":false}',
        strict=True,
    )


def test_signatures_that_cannot_be_told() -> None:
    def opaque(city: str, lock: types.FrameType) -> None: ...
    def unresolved(city: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def required(city: str, key: str) -> None: ...

    with pytest.raises(TypeError, match=r"tool 'opaque'.*parameter 'lock'.*hide_args"):
        tool(opaque)
    with pytest.raises(TypeError, match="'NoSuchName' of parameter 'city' cannot be resolved"):
        tool(unresolved)
    with pytest.raises(TypeError, match="'key' needs a default"):
        tool(required, hide_args=["key"])
    with pytest.raises(TypeError, match="no parameter 'kye'"):
        tool(required, hide_args=["kye"])
    with pytest.raises(TypeError, match="beneath"):
        tool(staticmethod(required))
    with pytest.raises(TypeError, match="no signature"):
        ToolDefinition.from_function(dict)
    with pytest.raises(ValueError, match="name=…"):
        tool(lambda: 1)
    with pytest.raises(ValueError, match="'a b'"):
        ToolDefinition("a b")


class Counter:
    def __init__(self) -> None:
        self.total = 0

    @tool(hide_args=["key"])
    def add(self, n: int, key: str = "k") -> int:
        """Adds."""
        self.total += n
        return self.total

    @tool
    async def total_later(self) -> int:
        return self.total

    @classmethod
    @tool
    def name_of_class(cls, suffix: str) -> str:
        return cls.__name__ + suffix

    @staticmethod
    @tool
    def static(n: int) -> int:
        return n

    def plain(self, n: int) -> int:
        return self.total + n


async def test_methods(execute: Execute) -> None:
    one, other = Counter(), Counter()
    assert list(definition_of(one.add).parameters["properties"]) == ["n"]
    calls = [call("add", n=2), call("name_of_class", suffix="!"), call("static", n=4)]
    methods = [one.add, Counter.name_of_class, Counter.static, one.total_later, one.plain]
    results = await execute(calls, methods)
    assert [result["result"] for result in results] == [2, "Counter!", 4]
    results = await execute([call("total_later"), call("plain", n=1)], methods)
    assert [result["result"] for result in results] == [2, 3]
    assert other.total == 0
    [refused] = await execute([call("add", n=2, key="mine")], methods)
    assert refused["error"] == "invalid arguments: key: no such argument"
    with pytest.raises(TypeError, match=r"'add' is a method: give it bound, as obj.add"):
        await execute([], [Counter.add])


async def test_unusual_parameters(execute: Execute) -> None:
    def positional(a: int, b: int = 2, /, c=3, *args: int, d: int = 4) -> Any:  # type: ignore[no-untyped-def]
        return a, b, c, args, d

    def open_ended(json: int, model_config: int = 1, **more: Any) -> Any:
        return json, model_config, more

    def careful(n: int = 0, key: str = "mine", **more: Any) -> Any:
        return n, key, more

    partial = functools.partial(open_ended, model_config=5)
    tools = {
        "positional": positional,
        "open_ended": open_ended,
        "careful": tool(careful, hide_args=["key"]),
        "partial": partial,
        "twice": lambda n: 2 * n,
    }
    results = await execute(
        [
            call("positional", a="1", c=[1]),
            call("positional", a=1, d=5, b=3),
            call("open_ended", json=1, other="x"),
            call("careful", n=1, key="stolen"),
            call("partial", json=2),
            call("partial", json=2, model_config=6),
            call("twice", n="ab"),
        ],
        tools,
    )
    assert [result.get("result", result.get("error")) for result in results] == [
        (1, 2, [1], (), 4),
        (1, 3, 3, (), 5),
        (1, 1, {"other": "x"}),
        "invalid arguments: key: no such argument",
        (2, 5, {}),
        "invalid arguments: model_config: no such argument",
        "abab",
    ]
    assert "model_config" not in ToolDefinition.from_function(partial, name="p").parameters


# --- calls --------------------------------------------------------------------------------------


@tool
def add(a: int, b: int = 0) -> int:
    return a + b


@tool
async def add_later(a: int, b: int = 0) -> int:
    await asyncio.sleep(0)
    return a + b


TEXT = '{"a": 9007199254740993}'
SHAPES = [
    {"name": "add", "arguments": {"a": 9007199254740993}, "call_id": "1"},
    {"name": "add", "arguments": TEXT, "call_id": "1"},
    {"id": "1", "type": "function", "function": {"name": "add", "arguments": TEXT}},
    {"type": "function_call", "call_id": "1", "id": "fc", "name": "add", "arguments": TEXT},
    {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 9007199254740993}},
    types.SimpleNamespace(id="1", function=types.SimpleNamespace(name="add", arguments=TEXT)),
    v1.ToolCall(id="1", name="add", arguments=TEXT),
    ToolCall("add", {"a": 9007199254740993}, "1"),
]


async def test_calls_of_every_shape(execute: Execute) -> None:
    expected = {"call_id": "1", "name": "add", "result": 9007199254740993}
    assert await execute(SHAPES, [add]) == [expected] * len(SHAPES)
    for shape in SHAPES:
        assert ToolCall.of(shape) == SHAPES[-1]


async def test_calls_that_make_no_sense(execute: Execute) -> None:
    calls = [
        {"id": "1", "function": {"name": "add", "arguments": '{"a": '}},
        {"id": "2", "function": {"name": "add", "arguments": "[1]"}},
        {"id": "3", "function": {"name": "add", "arguments": "[" * 100_000}},
        {"id": "4", "arguments": {}},
        5,
    ]
    results = await execute(calls, [add])

    assert [result["call_id"] for result in results] == ["1", "2", "3", "4", None]
    assert [result["name"] for result in results] == ["add"] * 3 + [""] * 2
    starts = ["invalid arguments: not JSON ("] * 3 + ["not a tool call: no name in"] * 2
    starts[1] = "invalid arguments: not an object but list"
    for result, start in zip(results, starts, strict=True):
        assert result["error"].startswith(start)
        assert "result" not in result
    with pytest.raises(ValueError, match="not JSON"):
        ToolCall.of(calls[0])


async def test_no_arguments_in_every_shape(execute: Execute) -> None:
    nothing: list[Any] = ["", " ", "{}", "null", None, {}]
    calls = [{"name": "now", "arguments": arguments} for arguments in nothing]
    calls.append({"name": "now"})
    results = await execute(calls, {"now": lambda: "noon"})
    assert [result["result"] for result in results] == ["noon"] * 7


async def test_the_plans_five(execute: Execute) -> None:
    """A sync tool, an async one, an unknown one, a failing one and one that times out."""
    gate = threading.Event()

    def fail(why: str) -> None:
        raise ValueError(f"no {why}")

    def hang() -> None:
        gate.wait(20)

    calls = [
        call("add", "1", a=1, b=2),
        call("add_later", "2", a=3, b=4),
        call("unknown", "3"),
        call("fail", "4", why="luck"),
        call("hang", "5"),
    ]
    began = time.monotonic()
    results = await execute(calls, [add, add_later, fail, hang], timeout=0.3)
    took = time.monotonic() - began
    gate.set()

    assert results == [
        {"call_id": "1", "name": "add", "result": 3},
        {"call_id": "2", "name": "add_later", "result": 7},
        {
            "call_id": "3",
            "name": "unknown",
            "error": "Tool unknown not found; there are: add, add_later, fail, hang",
        },
        {"call_id": "4", "name": "fail", "error": "ValueError: no luck"},
        {"call_id": "5", "name": "hang", "error": "Tool hang timed out after 0.3 s"},
    ]
    assert 0.3 <= took < 5
    assert await execute([], [add]) == []
    [none] = await execute([call("x")], [])
    assert none["error"] == "Tool x not found; there are none"


async def test_a_tool_without_a_function(execute: Execute) -> None:
    [result] = await execute([call("far")], [ToolDefinition("far")])
    assert result["error"] == "TypeError: tool 'far' has no function to call"


async def test_arguments_are_checked_before_a_tool_runs(execute: Execute) -> None:
    ran = []

    @tool
    def book(place: Place, days: int, unit: Unit = Unit.KELVIN) -> None:
        ran.append(place)

    [result] = await execute([call("book", place={"citi": 1}, unit="foot", towel=True)], [book])
    assert ran == []
    for part in ("place.city: Field required", "days: Field required", "unit: Input should be"):
        assert part in result["error"]
    assert "towel: no such argument" in result["error"]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (KeyError("city"), "KeyError: 'city'"),
        (ValueError(), "ValueError"),
        (Mute(), "Mute"),
        (SystemExit(2), "SystemExit: 2"),
        (StopIteration(), None),
        (asyncio.CancelledError(), "CancelledError"),
        (TimeoutError("its own"), "TimeoutError: its own"),
    ],
)
async def test_failures(
    execute: Execute, asynchronous: bool, failure: BaseException, error: str | None
) -> None:
    def fail() -> None:
        raise failure

    async def afail() -> None:
        raise failure

    results = await execute(
        [call("fail"), call("add", a=1)], {"fail": afail if asynchronous else fail, "add": add}
    )
    assert results[1]["result"] == 1
    if isinstance(failure, asyncio.CancelledError) and asynchronous:
        error = "CancelledError: the tool was cancelled"
    if error is None:
        error = "RuntimeError: coroutine raised StopIteration" if asynchronous else "StopIteration"
    assert results[0]["error"] == error


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_tools_keyboard_interrupt_is_not_swallowed(flavour: str, asynchronous: bool) -> None:
    stopped = threading.Event()
    waiting = threading.Event()

    def interrupt() -> None:
        waiting.wait(20)
        raise KeyboardInterrupt

    async def ainterrupt() -> None:
        await until(waiting.is_set)
        raise KeyboardInterrupt

    async def wait() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    tools = {"interrupt": ainterrupt if asynchronous else interrupt, "wait": wait}
    calls = [call("interrupt"), call("wait")]
    with pytest.raises(KeyboardInterrupt):
        if flavour == "sync":
            execute_tools(calls, tools)
        else:
            asyncio.run(aexecute_tools(calls, tools))
    assert stopped.wait(10)
    assert execute_tools([call("add", a=1)], [add])[0]["result"] == 1


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


# --- events -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["emitter", "bus"])
async def test_every_call_is_told(execute: Execute, where: str) -> None:
    emitter = EventEmitter(handler_timeout=20) if where == "emitter" else GlobalEventBus.emitter
    told: list[Event] = []

    @emitter.on("*")
    async def tell(event: Event) -> None:
        told.append(event)

    def fail() -> None:
        raise ValueError("no")

    calls = [call("add", "1", a=1), call("fail", "2"), call("none", "3"), call("add", "4", a="x")]
    given = {"emitter": emitter} if where == "emitter" else {}
    try:
        results = await execute(calls, [add, fail], **given)
    finally:
        emitter.off("*", tell)

    for one, result in zip(calls, results, strict=True):
        started, completed = (each for each in told if each.data["call_id"] == one["call_id"])
        assert started.type is EventType.TOOL_STARTED
        assert started.data["tool_name"] == completed.data["tool_name"] == one["name"]
        assert started.data["arguments"] == completed.data["arguments"] == one["arguments"]
        assert completed.type is EventType.TOOL_COMPLETED
        assert completed.data["success"] == ("result" in result)
        assert completed.data["error"] == result.get("error")
        assert completed.data["result"] == result.get("result")
        assert 0 <= completed.data["duration_ms"] < 10_000


# --- what is available --------------------------------------------------------------------------


async def test_tools_that_are_none(execute: Execute) -> None:
    with pytest.raises(TypeError, match="5 is no tool"):
        await execute([], {"five": 5})
    with pytest.raises(ValueError, match="<lambda>"):
        await execute([], [lambda: 1])
    with pytest.raises(ValueError, match="two tools are called 'add'"):
        await execute([], [add, ToolDefinition("add")])
    assert await execute([], [add, add]) == []
    for timeout in (0, -1, math.nan):
        with pytest.raises(ValueError, match="timeout"):
            await execute([], [add], timeout=timeout)
    with pytest.raises(ValueError, match="max_concurrency"):
        await execute([], [add], max_concurrency=0)
    [result] = await execute([call("add", a=1)], [add], timeout=math.inf)
    assert result["result"] == 1


async def test_definitions_by_hand(execute: Execute) -> None:
    class Object:
        async def __call__(self, n: int) -> int:
            return n

    tools = [
        ToolDefinition("by_hand", "d", {"type": "object"}, lambda **more: more),
        ToolDefinition("elsewhere"),
        ToolDefinition.from_function(Object(), name="object"),
    ]
    calls = [call("by_hand", a=1), call("elsewhere"), call("object", n="3")]
    results = await execute(calls, tools)
    assert results[0]["result"] == {"a": 1}
    assert results[1]["error"] == "TypeError: tool 'elsewhere' has no function to call"
    assert results[2]["result"] == 3


async def test_a_registry(flavour: str) -> None:
    registry = ToolRegistry([add])
    definition = registry.register(lambda_named := tool(lambda: "x", name="x"))
    assert callable(lambda_named)
    assert registry.get_tool_names() == ["add", "x"]
    assert registry.list_tools() == [definition_of(add), definition]
    assert registry.get_tool("x") is definition
    assert registry.get_tool("y") is None
    if flavour == "sync":
        results = await asyncio.to_thread(registry.execute_tools, [call("x")], timeout=20)
    else:
        results = await registry.aexecute_tools([call("x")], timeout=20)
    assert results == [{"call_id": None, "name": "x", "result": "x"}]
    assert registry.unregister("x")
    assert not registry.unregister("x")
    registry.clear()
    assert registry.list_tools() == []


def test_the_flavours_have_the_same_signature() -> None:
    for holder in (None, ToolRegistry):
        one = execute_tools if holder is None else holder.execute_tools
        other = aexecute_tools if holder is None else holder.aexecute_tools
        assert inspect.signature(one) == inspect.signature(other)
        assert one.__doc__
        assert other.__doc__


# --- words --------------------------------------------------------------------------------------


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('Bø "said"', 'Bø "said"'),
        (None, "null"),
        (True, "true"),
        ({"ø": [1, 2.5, 9007199254740993]}, '{"ø": [1, 2.5, 9007199254740993]}'),
        (Place(city="Bø"), '{"city": "Bø", "country": null}'),
        ([Window(2)], '[{"days": 2}]'),
        ((Unit.KELVIN, {1}), '["kelvin", [1]]'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00+00:00"'),
        (b"\xff", "\"b'\\\\xff'\""),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (types.MappingProxyType({"a": 1}), '{"a": 1}'),
        (CIRCLE, "[[...]]"),
        (os.fsdecode(b"caf\xe9"), "caf?"),
        (Unprintable(), "<Unprintable>"),
    ],
)
def test_result_text(value: Any, text: str) -> None:
    assert result_text({"call_id": "1", "name": "x", "result": value}) == text
    assert v1.Part(text=text)


def test_result_text_of_an_error() -> None:
    assert result_text({"name": "x", "error": "no Bø"}) == '{"error": "no Bø"}'
    assert result_text({}) == "null"
