"""Tools: functions that a model may ask to have called, and calling them when it does.

`tool` makes a `ToolDefinition` from a function's signature and docstring, `execute_tools` and
`aexecute_tools` call what the model asked for, and `result_text` words what came of it. Talking
to the model, and calling it again with the results, does not belong here.

Example::

    from penstock.tools import execute_tools, tool

    @tool
    def weather(city: str, days: int = 1) -> str:
        '''Tells the weather.

        Args:
            city: where, such as "Oslo".
            days: how many days ahead.
        '''
        return f"rain in {city}"

    execute_tools([{"name": "weather", "arguments": {"city": "Oslo"}}], [weather])
    # [{"call_id": None, "name": "weather", "result": "rain in Oslo"}]
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, time
from typing import Any

from penstock import _background
from penstock._tool_call import ToolCall
from penstock._tool_definition import (
    Tool,
    ToolDefinition,
    Tools,
    by_name,
    definition_of,
    tool,
)
from penstock._tool_runner import Interrupted, Run
from penstock.events import EventEmitter, GlobalEventBus

__all__ = [
    "Tool",
    "ToolCall",
    "ToolDefinition",
    "ToolRegistry",
    "Tools",
    "aexecute_tools",
    "definition_of",
    "execute_tools",
    "result_text",
    "tool",
]


def execute_tools(
    tool_calls: Iterable[Any],
    available_tools: Tools,
    timeout: float | None = None,
    *,
    emitter: EventEmitter | None = None,
    max_concurrency: int | None = None,
) -> list[dict[str, Any]]:
    """Calls tools, side by side, and waits for all of them.

    Functions run in threads, coroutine functions in an event loop that all calls share; both see
    the caller's context variables. What fails is a result like any other: an unknown tool, wrong
    arguments, a tool that raises (even SystemExit) or is out of time. A thread cannot be stopped:
    a function that is out of time goes on by itself, and its result is thrown away.

    Args:
        tool_calls: what the model asked for, in any shape that `ToolCall.of` takes.
        available_tools: what it may call; see `Tool`.
        timeout: seconds for each tool, from its own start; None for no limit.
        emitter: gets TOOL_STARTED and TOOL_COMPLETED (with success, error and duration_ms) for
            every call. Default: the global bus.
        max_concurrency: how many tools run at a time. Default: all.

    Returns:
        For each call, in order, ``{"call_id", "name", "result"}`` or ``{"call_id", "name",
        "error"}``, the error being text.

    Raises:
        KeyboardInterrupt: at once, on Ctrl-C, with asynchronous tools cancelled; and where a tool
            raises it.
        TypeError: something available is no tool.
        ValueError: two tools have one name, or an argument makes no sense.
        RuntimeError: called by an asynchronous tool, which has to await `aexecute_tools`.

    Example::

        call = {"id": "1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
        execute_tools([call], [weather], timeout=10)
    """
    if _background.tools.is_current():
        raise RuntimeError("execute_tools would block the tool's event loop: use aexecute_tools")
    run = _run(available_tools, timeout, emitter, max_concurrency, _background.tools)
    future = asyncio.run_coroutine_threadsafe(run.all(list(tool_calls)), _background.calls.loop())
    try:
        return future.result()
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        future.cancel()


async def aexecute_tools(
    tool_calls: Iterable[Any],
    available_tools: Tools,
    timeout: float | None = None,
    *,
    emitter: EventEmitter | None = None,
    max_concurrency: int | None = None,
) -> list[dict[str, Any]]:
    """As `execute_tools`, without blocking the event loop; coroutine functions run in this loop.

    Cancelling (``task.cancel()``, ``asyncio.timeout``) cancels asynchronous tools and returns at
    once.

    Example::

        await aexecute_tools(calls, [weather, fetch], timeout=10)
    """
    run = _run(available_tools, timeout, emitter, max_concurrency, None)
    try:
        return await run.all(list(tool_calls))
    except Interrupted:
        raise KeyboardInterrupt from None


def _run(
    available_tools: Tools,
    timeout: float | None,
    emitter: EventEmitter | None,
    max_concurrency: int | None,
    elsewhere: _background.LoopThread | None,
) -> Run:
    if timeout is not None and (math.isnan(timeout) or timeout <= 0):
        raise ValueError(f"timeout: {timeout} is not a positive number of seconds")
    if max_concurrency is not None and max_concurrency < 1:
        raise ValueError(f"max_concurrency: {max_concurrency} is not at least 1")
    return Run(
        by_name(available_tools),
        timeout=None if timeout == math.inf else timeout,
        emitter=GlobalEventBus.emitter if emitter is None else emitter,
        max_concurrency=max_concurrency,
        elsewhere=elsewhere,
    )


def result_text(result: Mapping[str, Any]) -> str:
    """What the model is told of one of `execute_tools`' results. Never raises.

    Text is told as it is; dataclasses, pydantic models and what else JSON can hold as JSON; all
    other things as ``str`` words them; an error as ``{"error": …}``.

    Example::

        penstock.tool_result(call, result_text(result), is_error="error" in result)
    """
    value = {"error": result["error"]} if "error" in result else result.get("result")
    try:
        text = (
            value
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False, default=_jsonable)
        )
    except Exception:  # it contains itself, has keys that are no text, …
        try:
            text = str(value)
        except Exception:
            text = f"<{type(value).__name__}>"
    return text.encode(errors="replace").decode()  # file names may hold half a character


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if hasattr(value, "model_dump") and not isinstance(value, type):  # pydantic
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


class ToolRegistry:
    """Tools by name, for applications that gather them in one place. There is no global one.

    Args:
        tools: the first to register.

    Example::

        registry = ToolRegistry([weather])
        registry.execute_tools(calls, timeout=10)
    """

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, ToolDefinition] = {}
        for each in tools:
            self.register(each)

    def register(self, tool: Tool) -> ToolDefinition:
        """Adds a tool, in place of one with the same name.

        Raises:
            TypeError: it is no tool, or its signature cannot be told to a model.
            ValueError: it has no name that a tool can have.
        """
        definition = definition_of(tool)
        self._tools[definition.name] = definition
        return definition

    def unregister(self, name: str) -> bool:
        """Removes a tool. Returns whether there was one."""
        return self._tools.pop(name, None) is not None

    def get_tool(self, name: str) -> ToolDefinition | None:
        """The tool of that name, if any."""
        return self._tools.get(name)

    def list_tools(self) -> list[ToolDefinition]:
        """All tools, in the order in which they came."""
        return list(self._tools.values())

    def get_tool_names(self) -> list[str]:
        """The tools' names, in the order in which they came."""
        return list(self._tools)

    def clear(self) -> None:
        """Removes all tools."""
        self._tools.clear()

    def execute_tools(
        self,
        tool_calls: Iterable[Any],
        timeout: float | None = None,
        *,
        emitter: EventEmitter | None = None,
        max_concurrency: int | None = None,
    ) -> list[dict[str, Any]]:
        """`execute_tools` with the tools registered here."""
        return execute_tools(
            tool_calls, self._tools, timeout, emitter=emitter, max_concurrency=max_concurrency
        )

    async def aexecute_tools(
        self,
        tool_calls: Iterable[Any],
        timeout: float | None = None,
        *,
        emitter: EventEmitter | None = None,
        max_concurrency: int | None = None,
    ) -> list[dict[str, Any]]:
        """`aexecute_tools` with the tools registered here."""
        return await aexecute_tools(
            tool_calls, self._tools, timeout, emitter=emitter, max_concurrency=max_concurrency
        )
