"""What form a request's answer takes: how its text is read, and what it is held to.

For requests whose prompt is made already, since the prompt may have begun the answer. How forms
are held to is ``grammar``'s to know, how a text is read ``splitter``'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local import thinking, tool_grammar
from penstock_server.local.constraint import Constraint
from penstock_server.local.engine import Loaded
from penstock_server.local.grammar import Grammar
from penstock_server.local.splitter import ShapedText, Splitter
from penstock_server.local.text import TextStream
from penstock_server.local.thinking import Tags

_FORMAT = "response_format"
_SCHEMA = "response_format.json_schema.schema"

_MUST_CALL = frozenset({v1.ToolChoice.MODE_REQUIRED, v1.ToolChoice.MODE_TOOL})

# Thoughts yet to come: none (any more), begun by the prompt, or as the model likes.
_Thoughts = Literal["none", "begun", "free"]


def offered(request: v1.GenerateRequest) -> Sequence[v1.Tool]:
    """The tools that the model is shown: none where it must not call any."""
    return () if request.tool_choice.mode == v1.ToolChoice.MODE_NONE else request.tools


def shape(
    request: v1.GenerateRequest, loaded: Loaded, prompt: Sequence[int], stop: Sequence[str]
) -> tuple[TextStream, Constraint | None]:
    """How the answer to a conversation is read, and what it is held to.

    ``prompt`` are the conversation's token ids. Raises INVALID_REQUEST and UNSUPPORTED_FEATURE
    for schemas that cannot be held to, naming their field. Compiling them may take milliseconds:
    not for an event loop or an engine's thread.
    """
    abilities, tokenizer = loaded.abilities, loaded.tokenizer
    tools = offered(request)
    thoughts, tags = _thoughts(request, loaded, prompt)
    constraint = _held(request, loaded, tools, tags, thoughts)
    if tags is None and not tools:
        return tokenizer.text_stream(stop), constraint
    form = abilities.format if tools else None
    markers = tokenizer.special([*(tags or ()), *(form.markers if form else ())])
    splitter = Splitter(
        tags,
        form,
        {tool.name for tool in tools},
        thinking=thoughts == "begun",
        single=not _several(request),
    )
    hide = request.thinking.HasField("include") and not request.thinking.include
    text = ShapedText(tokenizer.detokenizer(markers=markers), stop, splitter, hide=hide)
    if tags is not None and (tokens := _budget(request.thinking)) is not None:
        end = tokenizer.encode_part(tags.close)
        constraint = thinking.Budget(text, tokens, end, constraint)
    return text, constraint


def held(request: v1.GenerateRequest, loaded: Loaded) -> Constraint | None:
    """What the continuation of a raw prompt is held to."""
    return _held(request, loaded, (), None, "none")


def _thoughts(
    request: v1.GenerateRequest, loaded: Loaded, prompt: Sequence[int]
) -> tuple[_Thoughts, Tags | None]:
    """Whether thoughts are to come, and how they are marked."""
    tags = loaded.abilities.tags
    if tags is None:
        return "none", None
    ending = loaded.tokenizer.ending(prompt).rstrip()
    if ending.endswith(tags.open):
        return "begun", tags
    if ending.endswith(tags.close):
        return "none", None
    return "free", tags


def _budget(options: v1.ThinkingOptions) -> int | None:
    """How many tokens may be thought; None: any number.

    Models that think unasked, whatever their template is told, are held to none at all.
    """
    if thinking.forbids(options):
        return 0
    return options.budget_tokens if options.WhichOneof("amount") == "budget_tokens" else None


def _several(request: v1.GenerateRequest) -> bool:
    """Whether the answer may call several tools. Unset: where it need not call any."""
    choice = request.tool_choice
    if choice.HasField("parallel_tool_calls"):
        return choice.parallel_tool_calls
    return choice.mode not in _MUST_CALL


def _held(
    request: v1.GenerateRequest,
    loaded: Loaded,
    tools: Sequence[v1.Tool],
    tags: Tags | None,
    thoughts: _Thoughts,
) -> Constraint | None:
    choice = request.tool_choice
    must_call = bool(tools) and choice.mode in _MUST_CALL
    wants_json = request.response_format.WhichOneof("format") not in (None, "text")
    is_strict = any(tool.strict for tool in tools)
    if not (must_call or wants_json or is_strict):
        return None
    feature = "tool_choice" if must_call else _FORMAT if wants_json else "tools"
    grammar = loaded.abilities.grammar(feature)
    form = loaded.abilities.format
    rules: list[str] = []
    if wants_json and not must_call:
        rules.append(f"json: {grammar.json(_schema(grammar, request.response_format))}")
    if tools:
        numbered = list(enumerate(request.tools))
        if choice.mode == v1.ToolChoice.MODE_TOOL:
            numbered = [each for each in numbered if each[1].name == choice.tool_name]
        tool_grammar.check(grammar, numbered)
        write = tool_grammar.calls if must_call or wants_json else tool_grammar.text_or_calls
        rules.append(write(grammar, form, [tool for _, tool in numbered], _several(request)))
    body = (
        "calls"
        if must_call
        else "answer"
        if not wants_json
        else "(json | calls)"
        if tools
        else "json"
    )
    if thinking.forbids(request.thinking) and thoughts == "free":
        thoughts = "none"
    prefix = ""
    if tags is not None and thoughts != "none":
        rules.append(_thought(grammar, tags))
        opening = grammar.literal(tags.open)
        prefix = "thought " if thoughts == "begun" else f"({opening} thought)? "
    return grammar.constraint("\n".join([f"start: {prefix}{body}", *rules]))


def _thought(grammar: Grammar, tags: Tags) -> str:
    """The rule for a thought, up to where the answer itself begins."""
    space = "SPACE: /[ \\t\\n]{0,3}/"
    if grammar.is_token(tags.close):
        closing = grammar.literal(tags.close)
        return f"{space}\nTHOUGHT: /(.|\\n)*/\nthought: THOUGHT {closing} SPACE"
    closing = re.escape(tags.close).replace("/", "\\/")
    return f"{space}\nthought_[lazy]: /(.|\\n)*{closing}/\nthought: thought_ SPACE"


def _schema(grammar: Grammar, form: v1.ResponseFormat) -> dict[str, Any]:
    if form.WhichOneof("format") == "json_object":
        return {"type": "object"}
    wanted = form.json_schema
    schema: dict[str, Any] = json.loads(wanted.schema)
    try:
        grammar.check_schema(schema, _SCHEMA)
    except Failure as failure:
        # Whoever does not insist gets JSON at least.
        insists = not wanted.HasField("strict") or wanted.strict
        if insists or failure.reason == v1.ERROR_REASON_INVALID_REQUEST:
            raise
        return {"type": "object"}
    return schema
