"""Every synchronous call has its asynchronous twin: found by introspection, and no gap."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import penstock
import penstock.events
import penstock.tools
import pytest

PLACES: dict[str, Any] = {
    "LLM": penstock.LLM,
    "BasicSession": penstock.BasicSession,
    "EventEmitter": penstock.EventEmitter,
    "ToolRegistry": penstock.ToolRegistry,
    "ChunkStream": penstock.ChunkStream,
    "penstock": penstock,
    "penstock.events": penstock.events,
    "penstock.tools": penstock.tools,
}

TWINS_ELSEWHERE = {
    "ChunkStream.close": penstock.AsyncChunkStream.aclose,
    "penstock.Client": penstock.aio.Client,
}

PURE = {
    # Nothing here waits: no call, no file, no handler, no tool.
    "BasicSession": {
        *("add_message", "get_messages", "get_history", "clear_history", "get_token_estimate"),
        *("should_compact", "enable_auto_compact", "disable_auto_compact", "to_dict", "from_dict"),
    },
    "EventEmitter": {"on", "on_async", "once", "off", "off_async", "clear", "has_listeners"},
    "ToolRegistry": {
        *("register", "unregister", "get_tool", "list_tools", "get_tool_names", "clear"),
    },
    "penstock": {
        *("assistant", "audio", "document", "image", "on_global", "system", "text", "text_of"),
        *("thinking", "thinking_of", "tool", "tool_call", "tool_calls_of", "tool_result", "user"),
    },
    "penstock.events": {"on_global", "create_generation_event", "create_tool_event"},
    "penstock.tools": {"definition_of", "result_text", "tool"},
}


def functions(place: Any) -> dict[str, Any]:
    """The public functions of a class, or of a module's ``__all__``."""
    names = getattr(place, "__all__", None) or [name for name in vars_of(place) if name[0] != "_"]
    found = {name: getattr(place, name) for name in names}
    return {
        name: each
        for name, each in found.items()
        if inspect.isfunction(each) or inspect.ismethod(each)
    }


def vars_of(kind: type) -> list[str]:
    return [name for base in kind.__mro__ if base is not object for name in vars(base)]


def is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function)


def pairs() -> list[tuple[str, str, Any, Any]]:
    """Where, name, synchronous function, asynchronous twin or None."""
    found = []
    for where, place in PLACES.items():
        public = functions(place)
        for name, function in sorted(public.items()):
            if is_async(function) or name in PURE.get(where, ()):
                continue
            twin = public.get(f"a{name}") or TWINS_ELSEWHERE.get(f"{where}.{name}")
            found.append((where, name, function, twin))
    return found


def test_no_gap(report: Callable[[str], None]) -> None:
    table = pairs()
    for where, name, _, twin in table:
        report(f"{where}.{name} | {twin.__name__ if twin else '-'}")

    assert [f"{where}.{name}" for where, name, _, twin in table if twin is None] == []
    assert len(table) >= 24


@pytest.mark.parametrize(
    ("function", "twin"),
    [(function, twin) for _, _, function, twin in pairs()],
    ids=[f"{where}.{name}" for where, name, _, _ in pairs()],
)
def test_twins_take_the_same(function: Any, twin: Any) -> None:
    assert is_async(twin)
    one, other = inspect.signature(function), inspect.signature(twin)
    assert list(one.parameters.values()) == list(other.parameters.values())
    renamed = {"Iterator": "AsyncGenerator", "ChunkStream": "AsyncChunkStream"}
    expected = str(one.return_annotation)
    assert str(other.return_annotation) in (expected, renamed.get(expected, expected))
    assert function.__doc__
    assert twin.__doc__


def test_every_asynchronous_call_has_a_synchronous_one() -> None:
    for where, place in PLACES.items():
        public = functions(place)
        for name, function in public.items():
            if is_async(function) and name != "emit_async":  # `aemit`'s other name
                assert name.removeprefix("a") in public, f"{where}.{name}"


def test_what_is_called_pure_is_there() -> None:
    for where, names in PURE.items():
        assert names <= functions(PLACES[where]).keys(), where
