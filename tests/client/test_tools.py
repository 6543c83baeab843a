"""Tools in both flavours: what comes of calls, events, what is available, and words for it."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import threading
import time
import types
from datetime import UTC, date, datetime
from typing import Any

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

from tests.client.calling import Execute, Place, Unit, Window, add, add_later, call
from tests.support.processes import until

# --- calls --------------------------------------------------------------------------------------


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
