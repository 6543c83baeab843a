"""A request's messages as chat templates read them: roles, texts, tool calls and their results.

Which parts a model can read at all has been checked before (``prompt``).
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock import v1

from penstock_server.local import images, tool_formats
from penstock_server.local.tool_formats import ToolFormat

_ROLES: Mapping[v1.Role.ValueType, str] = {
    v1.ROLE_SYSTEM: "system",
    v1.ROLE_USER: "user",
    v1.ROLE_ASSISTANT: "assistant",
    v1.ROLE_TOOL: "tool",
}
"""What chat templates call them."""

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = string.ascii_letters + string.digits


def conversation(
    request: v1.GenerateRequest,
    taught: ToolFormat | None = None,
    told: Sequence[v1.Tool] = (),
) -> list[dict[str, Any]]:
    """The messages as chat templates read them: "role" and "content", and what else they know.

    System messages that open the conversation join ``request.system``, since templates take one.
    What the model thought before earlier answers is left out, as its makers advise.

    ``taught`` is how the chat template writes tool calls. Without one, earlier calls and results
    are written as text, and ``told`` are the tools that the model is told of in the system
    message. Contents are texts, except where there are pictures: then parts, for `ImageReader`.
    """
    opening = [request.system] if request.system else []
    messages: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the tools called, by the calls' ids
    for index, message in enumerate(request.messages):
        names |= {p.tool_call.id: p.tool_call.name for p in message.parts if p.tool_call.id}
        if message.role == v1.ROLE_SYSTEM and not messages:
            opening.append("\n".join(_texts(message.parts)))
        elif message.role == v1.ROLE_TOOL:
            messages += _results(message, names, taught)
        elif message.role == v1.ROLE_ASSISTANT:
            messages.append(_answer(message, taught))
        else:
            content = _content(message, index)
            messages.append({"role": _ROLES[message.role], "content": content})
    if request.prompt:
        messages.append({"role": "user", "content": request.prompt})
    if told:
        opening.append(tool_formats.instructions(told))
    if opening:
        messages.insert(0, {"role": "system", "content": "\n\n".join(opening)})
    return messages


def _answer(message: v1.Message, taught: ToolFormat | None) -> dict[str, Any]:
    text = "\n".join(_texts(message.parts))
    calls = [part.tool_call for part in message.parts if part.HasField("tool_call")]
    if not calls:
        return {"role": "assistant", "content": text}
    if taught is None:
        written = [text] if text else []
        written += map(tool_formats.written, calls)
        return {"role": "assistant", "content": "\n".join(written)}
    rendered = [
        {
            "type": "function",
            "id": _id(call.id, taught),
            "function": {"name": call.name, "arguments": _arguments(call)},
        }
        for call in calls
    ]
    return {"role": "assistant", "content": text, "tool_calls": rendered}


def _results(
    message: v1.Message, names: Mapping[str, str], taught: ToolFormat | None
) -> Iterator[dict[str, Any]]:
    """A message for each result, or all in one of the user's where the template knows none."""
    results = [part.tool_result for part in message.parts if part.HasField("tool_result")]
    if taught is None:
        blocks = [f"<tool_response>\n{_result(each)}\n</tool_response>" for each in results]
        if blocks:
            yield {"role": "user", "content": "\n".join(blocks)}
        return
    for result in results:
        yield {
            "role": "tool",
            "content": _result(result),
            "tool_call_id": _id(result.tool_call_id, taught),
            "name": names.get(result.tool_call_id, ""),
        }


def _result(result: v1.ToolResult) -> str:
    text = "\n".join(_texts(result.parts))
    return f"The tool failed: {text or 'it did not say why'}" if result.is_error else text


def _content(message: v1.Message, index: int) -> str | list[dict[str, Any]]:
    if not any(part.HasField("image") for part in message.parts):
        return "\n".join(_texts(message.parts))
    parts: list[dict[str, Any]] = []
    for place, part in enumerate(message.parts):
        if part.HasField("image"):
            parts.append(images.content(part.image, f"messages[{index}].parts[{place}].image"))
        else:
            parts += [{"type": "text", "text": text} for text in _texts([part])]
    return parts


def _texts(parts: Sequence[v1.Part]) -> Iterator[str]:
    for part in parts:
        kind = part.WhichOneof("content")
        if kind == "text":
            yield part.text
        elif kind == "refusal":
            yield part.refusal


def _arguments(call: v1.ToolCall) -> Any:
    """Arguments as a dictionary, which templates take apart; as text where they are none."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments
    return arguments if isinstance(arguments, dict) else call.arguments


def _id(call_id: str, taught: ToolFormat) -> str:
    """A call's id as the template takes it; the same for the same id."""
    if not taught.short_ids or _SHORT_ID.fullmatch(call_id):
        return call_id
    digest = hashlib.sha256(call_id.encode()).digest()
    return "".join(_DIGITS[byte % len(_DIGITS)] for byte in digest[:9])
