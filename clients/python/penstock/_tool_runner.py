"""Calling tools, side by side, each held to its time.

One coroutine serves both flavours. For asynchronous callers it runs in their event loop, and so
do asynchronous tools. For synchronous ones it runs in a loop where nobody's code can block it,
and asynchronous tools in another: one that blocks still times out. Functions always run in daemon
threads. A thread cannot be stopped: a tool that is out of time goes on by itself, what it returns
is thrown away, and it does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from penstock import _background
from penstock._tool_call import WrittenCall, read_call
from penstock._tool_definition import Tool, ToolDefinition, definition_of, is_ready
from penstock._tool_schema import InvalidArgumentsError
from penstock.events import EventEmitter, EventType, create_tool_event

_log = logging.getLogger("penstock.tools")

_BLOCKED_SECONDS = 0.1
"""How long a loop may take to answer before it counts as blocked by a tool."""

_tasks: set[asyncio.Task[Any] | None] = set()  # event loops hold their tasks only weakly


class Interrupted(Exception):
    """A tool raised KeyboardInterrupt: everything stops. An Exception, so that no loop breaks."""


class _Outcome(NamedTuple):
    value: Any = None
    error: str | None = None
    interrupted: bool = False


class Run:
    """One run of tools.

    Args:
        tools: by name.
        timeout: seconds for each tool; None for no limit.
        emitter: is told of every call.
        max_concurrency: how many run at a time; None for all.
        elsewhere: where asynchronous tools run; None for the running loop.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool],
        *,
        timeout: float | None,
        emitter: EventEmitter,
        max_concurrency: int | None,
        elsewhere: _background.LoopThread | None,
    ) -> None:
        self._tools = tools
        self._timeout = timeout
        self._emitter = emitter
        self._max_concurrency = max_concurrency
        self._elsewhere = elsewhere

    async def all(self, calls: Sequence[Any]) -> list[dict[str, Any]]:
        """Runs the calls. Returns what came of each, in their order.

        Cancelled, it cancels the tools and returns without waiting for them. Raises Interrupted.
        """
        slots = asyncio.Semaphore(self._max_concurrency or len(calls) or 1)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(call, slots)) for call in calls]
        except BaseExceptionGroup as failures:
            if failures.subgroup(Interrupted) is not None:
                raise Interrupted from None
            raise
        return [task.result() for task in tasks]

    async def _one(self, call: Any, slots: asyncio.Semaphore) -> dict[str, Any]:
        written = read_call(call)
        label = {"call_id": written.call_id, "name": written.name}
        async with slots:
            began = time.perf_counter()
            report = functools.partial(_report, written, began)
            try:
                await self._tell(
                    EventType.TOOL_STARTED,
                    {
                        "tool_name": written.name,
                        "arguments": written.arguments,
                        "call_id": written.call_id,
                    },
                )
                outcome = await self._outcome(written)
            except asyncio.CancelledError:
                self._tell_at_once(report(_Outcome(error="cancelled")))
                raise
            if outcome.interrupted:
                self._tell_at_once(report(outcome))
                raise Interrupted
            await self._tell(EventType.TOOL_COMPLETED, report(outcome))
        if outcome.error is not None:
            return {**label, "error": outcome.error}
        return {**label, "result": outcome.value}

    async def _outcome(self, call: WrittenCall) -> _Outcome:
        tool = self._tools.get(call.name)
        if tool is None and call.name:
            known = f"there are: {', '.join(self._tools)}" if self._tools else "there are none"
            return _Outcome(error=f"Tool {call.name} not found; {known}")
        if tool is None or call.problem:
            return _Outcome(error=call.problem)
        if not is_ready(tool):  # which takes pydantic a moment, and so would stall a loop
            read = await self._settle(
                self._in_thread(functools.partial(_ready, tool, call.name)), call.name, None
            )
            if read.error is not None or read.interrupted:
                return read
            tool = read.value
        definition = definition_of(tool)
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        if _background.is_coroutine_function(definition.function):
            running = self._in_loop(lambda: _acall(definition, call.arguments))
            return await self._settle(running, call.name, deadline)
        running = self._in_thread(lambda: _call(definition, call.arguments))
        outcome = await self._settle(running, call.name, deadline)
        if inspect.isawaitable(outcome.value):
            awaitable = outcome.value
            running = self._in_loop(lambda: awaitable)
            outcome = await self._settle(running, call.name, deadline)
        return outcome

    async def _settle(
        self, running: asyncio.Future[_Outcome], name: str, deadline: float | None
    ) -> _Outcome:
        """Waits, until the deadline at most. Whatever then runs is cancelled or forgotten."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            await asyncio.wait({running}, timeout=left)
        except asyncio.CancelledError:
            running.cancel()
            raise
        if not running.done():
            running.cancel()
            if self._elsewhere is not None:
                await _replace_if_blocked(self._elsewhere)
            return _Outcome(error=f"Tool {name} timed out after {self._timeout:g} s")
        if running.cancelled():  # by the tool itself, or by those whom it waited for
            return _Outcome(error="CancelledError: the tool was cancelled")
        return running.result()

    def _in_loop(self, make: Callable[[], Awaitable[Any]]) -> asyncio.Future[_Outcome]:
        if self._elsewhere is None:
            return asyncio.ensure_future(_aattempt(make))
        loop = self._elsewhere.loop()
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_aattempt(make), loop))

    def _in_thread(self, work: Callable[[], Any]) -> asyncio.Future[_Outcome]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Outcome] = loop.create_future()
        context = contextvars.copy_context()

        def run() -> None:
            outcome = context.run(_attempt, work)
            try:
                loop.call_soon_threadsafe(_hand_over, future, outcome)
            except RuntimeError:  # the loop was closed: nobody waits any more
                _throw_away(outcome)

        try:
            _background.threads.start(run)
        except RuntimeError as error:  # no more threads
            future.set_result(_Outcome(error=_describe(error)))
        return future

    async def _tell(self, event_type: EventType, data: dict[str, Any]) -> None:
        await self._emitter._aemit(event_type, data, "tools", natively=self._elsewhere is None)

    def _tell_at_once(self, data: dict[str, Any]) -> None:
        self._emitter.emit(EventType.TOOL_COMPLETED, data, "tools")  # in a loop it does not wait


def _report(call: WrittenCall, began: float, outcome: _Outcome) -> dict[str, Any]:
    return create_tool_event(
        call.name,
        call.arguments,
        outcome.value,
        success=outcome.error is None,
        error=outcome.error,
        duration_ms=(time.perf_counter() - began) * 1000,
        call_id=call.call_id,
    )


def _ready(tool: Tool, name: str) -> ToolDefinition:
    definition = definition_of(tool, name)
    definition._read()
    return definition


def _call(definition: ToolDefinition, arguments: Mapping[str, Any]) -> Any:
    bound = definition.bind(arguments)
    assert definition.function is not None
    return definition.function(*bound.args, **bound.kwargs)


async def _acall(definition: ToolDefinition, arguments: Mapping[str, Any]) -> Any:
    return await _call(definition, arguments)


def _attempt(work: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(work())
    except BaseException as error:  # even SystemExit: tools that are commands call sys.exit
        return _failure(error)


async def _aattempt(make: Callable[[], Awaitable[Any]]) -> _Outcome:
    task = asyncio.current_task()
    _tasks.add(task)
    try:
        return _Outcome(await make())
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        return _failure(error)
    finally:
        _tasks.discard(task)


def _failure(error: BaseException) -> _Outcome:
    if isinstance(error, KeyboardInterrupt):
        return _Outcome(error="interrupted", interrupted=True)
    if not isinstance(error, InvalidArgumentsError):
        _log.info("a tool failed", exc_info=error)
    return _Outcome(error=_describe(error))


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    if isinstance(error, InvalidArgumentsError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _hand_over(future: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    if future.done():  # out of time
        _throw_away(outcome)
    else:
        future.set_result(outcome)


def _throw_away(outcome: _Outcome) -> None:
    if inspect.iscoroutine(outcome.value):
        outcome.value.close()  # or Python warns that it was never awaited


async def _replace_if_blocked(loop_thread: _background.LoopThread) -> None:
    ours, theirs = asyncio.get_running_loop(), loop_thread.loop()
    answer: asyncio.Future[None] = ours.create_future()

    def settle() -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            answer.set_result(None)

    theirs.call_soon_threadsafe(ours.call_soon_threadsafe, settle)
    done, _ = await asyncio.wait({answer}, timeout=_BLOCKED_SECONDS)
    if not done:
        loop_thread.give_up(theirs)
