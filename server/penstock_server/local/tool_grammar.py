"""Tool calls as grammars: what a model may write where it has to call a tool, in its own format.

Rules are llguidance's kind of Lark; see `Grammar` for the terms they are made of. Which requests
have to call is ``shaping``'s to know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from penstock import v1

from penstock_server.local.grammar import Grammar
from penstock_server.local.tool_formats import ToolFormat, parameters


def check(grammar: Grammar, tools: Sequence[tuple[int, v1.Tool]]) -> None:
    """Refuse the first tool whose arguments cannot be held to their schema, by its place.

    Tools that say ``strict: false`` are not held to it.
    """
    for index, tool in tools:
        if not _is_loose(tool):
            grammar.check_schema(parameters(tool), f"tools[{index}].parameters")


def calls(grammar: Grammar, format_: ToolFormat, tools: Sequence[v1.Tool], several: bool) -> str:
    """Rules whose ``calls`` are one call or, where the format and ``several`` allow it, more."""
    many = several and format_.several
    rules = _objects(grammar, format_, tools)
    if format_.bare:
        return f"{rules}\ncalls: object"
    opening = grammar.literal(format_.open)
    body = _body(grammar, format_, many)
    between = f" {json.dumps(format_.glue)}" if format_.glue else ""
    more = f" ({between} {opening} body)*" if many and format_.shape != "list" else ""
    return f"{rules}\n{body}\ncalls: {opening} body{more}"


def text_or_calls(
    grammar: Grammar, format_: ToolFormat, tools: Sequence[v1.Tool], several: bool
) -> str:
    """Rules whose ``answer`` is any text, but what it calls is held to the tools' schemas.

    Nothing is held before a call begins: by the marker where there is one, else by the answer's
    first character.
    """
    rules = _objects(grammar, format_, tools)
    if format_.bare:
        return f"{rules}\nOTHER: /[^{{\\s](.|\\n)*/\nanswer: object | OTHER?"
    rules += "\n" + _body(grammar, format_, several and format_.several)
    opening = grammar.literal(format_.open)
    if grammar.is_token(format_.open):
        return f"{rules}\nTEXT: /(.|\\n)+/\nanswer: (TEXT? {opening} body)* TEXT?"
    return f"{rules}\nANY: /(.|\\n)*/\ntrigger[lazy]: ANY {opening}\nanswer: (trigger body)* ANY"


def _body(grammar: Grammar, format_: ToolFormat, many: bool) -> str:
    """What stands behind the opening marker, as the rule ``body``."""
    if format_.shape == "named":
        return "body: object"
    if format_.shape == "list":
        more = ' (", " object)*' if many else ""
        return f'body: "[" object{more} "]"'
    glue = f"{json.dumps(format_.glue)} " if format_.glue else ""
    closing = f" {glue}{grammar.literal(format_.close)}" if format_.close else ""
    return f"body: {glue}object{closing}"


def _objects(grammar: Grammar, format_: ToolFormat, tools: Sequence[v1.Tool]) -> str:
    """A rule for each tool's call, without markers, and ``object`` for any of them."""
    names = " | ".join(f"object_{index}" for index in range(len(tools)))
    rules = [f"object: {names}"]
    for index, tool in enumerate(tools):
        schema: dict[str, Any] = {"type": "object"} if _is_loose(tool) else parameters(tool)
        rules.append(f"arguments_{index}: {grammar.json(schema)}")
        if format_.shape == "named":
            separator = grammar.literal(format_.separator)
            rules.append(f"object_{index}: {json.dumps(tool.name)} {separator} arguments_{index}")
        else:
            head = f'{{"name": {json.dumps(tool.name)}, "{format_.key}": '
            rules.append(f'object_{index}: {json.dumps(head)} arguments_{index} "}}"')
    return "\n".join(rules)


def _is_loose(tool: v1.Tool) -> bool:
    return tool.HasField("strict") and not tool.strict
