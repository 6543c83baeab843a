"""What a model writes to have a tool called, in every shape that people hold it in.

Pure: calling tools is in `_tool_runner`, and what they answered is `tools.result_text`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self


@dataclass
class ToolCall:
    """A model's wish to have a tool called.

    Attributes:
        name: the tool's.
        arguments: by parameter.
        call_id: identifies the call in its conversation; None where there is none.

    Example::

        ToolCall("weather", {"city": "Oslo"}, "call_1")
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    call_id: str | None = None

    @classmethod
    def of(cls, call: Any) -> Self:
        """A call from any of the shapes that `execute_tools` takes.

        Args:
            call: a ToolCall, a ``penstock.v1.ToolCall``, a mapping with name, arguments and
                call_id, or OpenAI's mapping or object with id and function. Arguments may be
                JSON text; none at all, and JSON's null, stand for no arguments.

        Raises:
            ValueError: there is no name, or the arguments are no JSON object.

        Example::

            ToolCall.of({"id": "1", "function": {"name": "now", "arguments": "{}"}})
        """
        written = read_call(call)
        if written.problem:
            raise ValueError(written.problem)
        return cls(written.name, written.arguments, written.call_id)


class WrittenCall(NamedTuple):
    """A call as far as it makes sense."""

    call_id: str | None
    name: str
    arguments: dict[str, Any]
    problem: str
    """What is wrong with it; "" where nothing is."""


def read_call(call: Any) -> WrittenCall:
    """Reads a call of any shape; never raises, for models write what they like."""
    call_id = _get(call, "call_id") or _get(call, "id") or None
    function = _get(call, "function") or call
    name = _get(function, "name")
    if not isinstance(name, str) or not name:
        return WrittenCall(call_id, "", {}, f"not a tool call: no name in {call!r:.200}")
    arguments = _get(function, "arguments")
    if arguments is None:
        arguments = _get(function, "input")  # Anthropic's word
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else None
        except (ValueError, RecursionError) as error:
            return WrittenCall(call_id, name, {}, f"invalid arguments: not JSON ({error})")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        kind = type(arguments).__name__
        return WrittenCall(call_id, name, {}, f"invalid arguments: not an object but {kind}")
    return WrittenCall(call_id, name, dict(arguments), "")


def _get(holder: Any, key: str) -> Any:
    return holder.get(key) if isinstance(holder, Mapping) else getattr(holder, key, None)
