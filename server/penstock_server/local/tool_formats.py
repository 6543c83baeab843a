"""How models write tool calls: a table of the common formats, and which one a model was taught.

What a format looks like in a text that comes piece by piece is ``tool_calls``'s to know, how an
answer is held to it ``tool_grammar``'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from penstock import v1


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes a tool call.

    ``open`` stands before calls and ``close`` behind them (empty: nothing does); ``shape`` says
    what is between: one JSON "object" with a name and arguments, a "list" of such, or the name as
    it is, ``separator``, and then the arguments ("named"). ``key`` is what the object calls the
    arguments, ``glue`` the white space that the model was taught around the object. ``bare``:
    an answer that begins with the object is a call too. ``several``: it may call more than one.
    ``short_ids``: its template takes call ids of 9 letters and digits only. ``sign`` finds the
    format in a chat template, where nothing of ``not_sign`` may be found.
    """

    name: str
    sign: str
    open: str
    close: str = ""
    shape: Literal["object", "list", "named"] = "object"
    key: str = "arguments"
    glue: str = ""
    separator: str = ""
    bare: bool = False
    several: bool = True
    short_ids: bool = False
    not_sign: str = r"(?!)"

    @property
    def markers(self) -> Sequence[str]:
        """What may be special tokens, and has to be seen nevertheless."""
        extra = ("[CALL_ID]",) if self.shape == "named" else ()
        return tuple(m for m in (self.open, self.close, self.separator, *extra) if m)


HERMES = ToolFormat(
    "hermes",
    r"<tool_call>",
    "<tool_call>",
    "</tool_call>",
    glue="\n",
    # Others use the same tag around XML.
    not_sign=r"<function=|<arg_key>",
)
"""Hermes, Qwen 2.5 and 3, and what is taught to models that know no tools."""

FORMATS: Sequence[ToolFormat] = (
    ToolFormat(
        "mistral-named",
        r"\[TOOL_CALLS\][\s\S]*\[ARGS\]",
        "[TOOL_CALLS]",
        shape="named",
        separator="[ARGS]",
        short_ids=True,
    ),
    ToolFormat("mistral", r"\[TOOL_CALLS\]", "[TOOL_CALLS]", shape="list", short_ids=True),
    HERMES,
    ToolFormat(
        "llama3",
        r"<\|python_tag\|>|\"parameters\": dictionary of argument",
        "<|python_tag|>",
        key="parameters",
        bare=True,
        several=False,
    ),
)
"""In order: the first that is found in a template."""


def detect(template: str) -> ToolFormat | None:
    """The format that a chat template teaches; None where it knows no tools, or in none of these.

    Example: ``detect("… <tool_call> … {{ tools }}").name`` → ``"hermes"``.
    """
    if not re.search(r"\btools\b", template):
        return None
    for known in FORMATS:
        if re.search(known.sign, template):
            return None if re.search(known.not_sign, template) else known
    return None


def described(tool: v1.Tool) -> dict[str, Any]:
    """A tool as chat templates read it."""
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    function["parameters"] = parameters(tool)
    return {"type": "function", "function": function}


def parameters(tool: v1.Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object."""
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    schema: dict[str, Any] = json.loads(tool.parameters)
    return schema if "type" in schema else {"type": "object", **schema}


def instructions(tools: Sequence[v1.Tool]) -> str:
    """What a model is told of tools whose chat template knows none: to write `HERMES`."""
    signatures = "\n".join(json.dumps(described(tool), ensure_ascii=False) for tool in tools)
    return (
        "You may call functions to help with the user's request. Their signatures:\n"
        f"<tools>\n{signatures}\n</tools>\n\n"
        "To call one, answer with a JSON object with its name and arguments between tags:\n"
        '<tool_call>\n{"name": "function-name", "arguments": {"argument": "value"}}\n</tool_call>'
    )


def written(call: v1.ToolCall) -> str:
    """An earlier call for a model whose chat template knows none, as it was told to write it."""
    name = json.dumps(call.name)
    return f'<tool_call>\n{{"name": {name}, "arguments": {call.arguments}}}\n</tool_call>'
