"""Conversations as AbstractCore's users write them → the contract's messages.

A message may be a dict (AbstractCore's or OpenAI's shape), a `Message`, or one of the contract's
own; media may be paths, bytes, URLs or parts. Sending them is ``llm``'s.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from penstock import messages as make
from penstock import v1
from penstock._request import to_json


@dataclass
class Message:
    """One message of a conversation, as AbstractCore keeps them.

    ``role`` is "system", "user", "assistant" or "tool"; ``timestamp`` an aware datetime;
    ``metadata`` whatever the program likes to keep, ``name`` and ``location`` among it.

    ``wire`` is the contract's own message, of an answer that came from a model: it is what the
    model gets to see again, signatures of thoughts and tool calls included.

    Example::

        Message("user", "Name a river.", metadata={"name": "Ada"})
    """

    role: str
    content: str
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    metadata: dict[str, Any] = field(default_factory=dict)
    wire: v1.Message | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str | None:
        """Who said it, where several may have."""
        return self.metadata.get("name")

    @property
    def location(self) -> str | None:
        """Where it was said."""
        return self.metadata.get("location")

    def to_dict(self) -> dict[str, Any]:
        """``{"role", "content", "timestamp" (ISO 8601), "metadata"}``."""
        return {
            "role": self.role,
            "content": self.content,
            "timestamp": self.timestamp.isoformat(),
            "metadata": self.metadata,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Message:
        """The reverse of `to_dict`. A time without a zone is taken for local time, as it was."""
        stamp = data.get("timestamp")
        when = datetime.fromisoformat(stamp).astimezone() if stamp else datetime.now(UTC)
        return cls(
            str(data["role"]), str(data["content"] or ""), when, dict(data.get("metadata") or {})
        )


AnyMessage: TypeAlias = Message | Mapping[str, Any] | v1.Message
"""A message in any of the shapes that are understood."""

Media: TypeAlias = str | os.PathLike[str] | bytes | v1.Part | Mapping[str, Any]
"""A file's path, its contents, its URL, a part made by `penstock.image` and the like, or a dict
with ``path``, ``url`` or ``data``, and perhaps ``media_type`` (also ``mime_type``)."""

_ROLES = {
    "system": v1.ROLE_SYSTEM,
    "developer": v1.ROLE_SYSTEM,
    "user": v1.ROLE_USER,
    "assistant": v1.ROLE_ASSISTANT,
    "tool": v1.ROLE_TOOL,
}

_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/yaml")


def conversation(
    prompt: str,
    messages: Iterable[AnyMessage] | None = None,
    media: Iterable[Media] | None = None,
) -> list[v1.Message]:
    """The contract's messages: those before, then the prompt with its media as the last.

    Raises:
        ValueError: a message or a medium that is none; the error says which and why.
        OSError: a file that cannot be read.

    Example::

        conversation("And now?", [{"role": "user", "content": "Hi"}], media=["cat.png"])
    """
    found = [to_wire(message, place) for place, message in enumerate(messages or ())]
    parts = [attached(medium, place) for place, medium in enumerate(media or ())]
    if prompt or parts:
        said = [make.text(prompt)] if prompt else []
        found.append(make.user(*said, *parts))
    if not found:
        raise ValueError("there is nothing to answer: give a prompt, messages or media")
    return found


def to_wire(message: AnyMessage, place: int = 0) -> v1.Message:
    """One message as the contract's; ``place`` is its number, for errors."""
    if isinstance(message, v1.Message):
        return message
    if isinstance(message, Message):
        if message.wire is not None:
            return message.wire
        message = {**message.metadata, "role": message.role, "content": message.content}
    if not isinstance(message, Mapping):
        raise ValueError(f"messages[{place}]: {type(message).__name__} is no message")
    role = _ROLES.get(str(message.get("role", "")))
    if role is None:
        raise ValueError(
            f"messages[{place}].role: {message.get('role')!r} is none of {', '.join(_ROLES)}"
        )
    content = _content(message.get("content"), place)
    if role == v1.ROLE_TOOL:
        call = message.get("tool_call_id") or message.get("call_id")
        if not call:
            raise ValueError(f"messages[{place}].tool_call_id: a tool's result says of which call")
        return make.tool_result(str(call), *content, is_error=bool(message.get("is_error")))
    calls = [_call(call, place) for call in message.get("tool_calls") or ()]
    name = str(message.get("name") or "") if role == v1.ROLE_USER else ""
    # "user" is what AbstractCore calls everybody who gave no name.
    return v1.Message(role=role, parts=[*content, *calls], name="" if name == "user" else name)


def _content(content: Any, place: int) -> list[v1.Part]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [make.text(content)]
    if not isinstance(content, Sequence):
        raise ValueError(f"messages[{place}].content: neither text nor a list of parts")
    return [_part(part, f"messages[{place}].content[{i}]") for i, part in enumerate(content)]


def _part(part: Any, where: str) -> v1.Part:
    if isinstance(part, v1.Part):
        return part
    if isinstance(part, str):
        return make.text(part)
    if isinstance(part, Mapping):
        if part.get("type") in ("text", "input_text", "output_text"):
            return make.text(str(part["text"]))
        if part.get("type") == "image_url":
            url = part["image_url"]
            return make.image(url["url"] if isinstance(url, Mapping) else url)
    raise ValueError(f"{where}: no part of a message that is known: {part!r:.80}")


def _call(call: Any, place: int) -> v1.Part:
    if isinstance(call, v1.ToolCall):
        return v1.Part(tool_call=call)
    try:
        function = call.get("function", call)
        number = call.get("call_id") or call.get("id") or ""
        return make.tool_call(str(number), function["name"], to_json(function["arguments"]))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"messages[{place}].tool_calls: {call!r:.80} is no tool call") from error


def attached(medium: Media, place: int = 0) -> v1.Part:
    """A medium as a part: pictures, sounds and documents by their media type, text as text.

    Raises:
        ValueError: its media type cannot be found out, or is nothing that the contract carries.
        OSError: the file cannot be read.
    """
    if isinstance(medium, v1.Part):
        return medium
    media_type = ""
    if isinstance(medium, Mapping):
        media_type = str(medium.get("media_type") or medium.get("mime_type") or "")
        source = (
            medium.get("path") or medium.get("file_path") or medium.get("url") or medium.get("data")
        )
        if source is None:
            raise ValueError(f"media[{place}]: a dict says path, url or data")
        medium = source
    known = media_type or _type_of(medium, place)
    for prefix, made in _KINDS.items():
        if known.startswith(prefix):
            return made(medium, media_type=known)
    if known.startswith(_TEXT_TYPES):
        return _as_text(medium)
    raise ValueError(
        f"media[{place}]: {known} is nothing that models take; pictures (image/…), sounds "
        "(audio/…), PDF and text are"
    )


_KINDS: Mapping[str, Callable[..., v1.Part]] = {
    "image/": make.image,
    "audio/": make.audio,
    "application/pdf": make.document,
}


def _type_of(medium: Any, place: int) -> str:
    if isinstance(medium, bytes):
        return make.media_type_of(medium)
    name = str(os.fspath(medium))
    if name.startswith("data:"):
        return name[5:].partition(";")[0].partition(",")[0]
    if not name.startswith(("http://", "https://")):
        return make.media_type_of(name)
    found = mimetypes.guess_type(name.partition("?")[0])[0]
    if found is None:
        raise ValueError(f"media[{place}]: {name} does not say what it is; give media_type, too")
    return found


def _as_text(medium: Any) -> v1.Part:
    if isinstance(medium, bytes):
        return make.text(medium.decode("utf-8"))
    name = os.fspath(medium)
    if name.startswith(("http://", "https://", "data:")):
        return make.document(name, media_type="text/plain")
    return make.text(f"{Path(name).name}:\n\n{Path(name).read_text('utf-8')}")
