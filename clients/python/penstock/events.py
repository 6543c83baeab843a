"""What happens while a client works, told to whoever listens: emitters and the global bus.

Handlers are called beside the caller, one event at a time and in order, and a handler that fails
or hangs never harms the call: see `EventEmitter`. What a call reports, and when, belongs to those
who emit.

Example::

    from penstock.events import EventType, on_global

    on_global(EventType.TOOL_COMPLETED, lambda event: print(event.data["tool_name"]))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from penstock._emitter import Event, EventEmitter, EventType, Handler

__all__ = [
    "AsyncEventEmitter",
    "Event",
    "EventEmitter",
    "EventType",
    "GlobalEventBus",
    "Handler",
    "aemit_global",
    "create_generation_event",
    "create_tool_event",
    "emit_global",
    "on_global",
]

AsyncEventEmitter = EventEmitter
"""The same class: one emitter serves both worlds."""


class GlobalEventBus:
    """The process's own emitter, which every LLM's emitter passes its events on to.

    Its methods are those of an `EventEmitter`, on the class itself.

    Example::

        GlobalEventBus.on(EventType.ERROR, lambda event: print(event.data["error"]))
    """

    emitter: ClassVar[EventEmitter] = EventEmitter()
    """The emitter itself, to be the ``parent`` of others."""

    on = emitter.on
    once = emitter.once
    on_async = emitter.on_async
    off = emitter.off
    off_async = emitter.off_async
    clear = emitter.clear
    has_listeners = emitter.has_listeners
    emit = emitter.emit
    aemit = emitter.aemit
    emit_async = emitter.emit_async
    emit_error = emitter.emit_error
    aemit_error = emitter.aemit_error


on_global = GlobalEventBus.on
"""`GlobalEventBus.on` as a function."""
emit_global = GlobalEventBus.emit
"""`GlobalEventBus.emit` as a function."""
aemit_global = GlobalEventBus.aemit
"""`GlobalEventBus.aemit` as a function."""


def create_generation_event(
    model_name: str | None = None,
    provider_name: str | None = None,
    tokens_input: int | None = None,
    tokens_output: int | None = None,
    duration_ms: float | None = None,
    cost_usd: float | None = None,
    **data: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two halves of a generation's data, as `EventEmitter.emit` takes them.

    What is not known is left out. A cost is the caller's to know: none is made up.

    Returns:
        The further data, and the known ones of model, provider, tokens_input, tokens_output,
        duration_ms and cost_usd.

    Example::

        data, known = create_generation_event("tiny", "local", tokens_output=7, stream=False)
        emitter.emit(EventType.GENERATION_COMPLETED, data, **known)
    """
    known = {
        "model": model_name,
        "provider": provider_name,
        "tokens_input": tokens_input,
        "tokens_output": tokens_output,
        "duration_ms": duration_ms,
        "cost_usd": cost_usd,
    }
    return data, {key: value for key, value in known.items() if value is not None}


def create_tool_event(
    tool_name: str,
    arguments: Mapping[str, Any],
    result: Any = None,
    success: bool = True,
    error: str | None = None,
    **data: Any,
) -> dict[str, Any]:
    """The data of a tool's event.

    Example::

        emitter.emit(EventType.TOOL_COMPLETED, create_tool_event("add", {"a": 1, "b": 2}, 3))
    """
    return {
        "tool_name": tool_name,
        "arguments": arguments,
        "result": result,
        "success": success,
        "error": error,
        **data,
    }
