"""Conversations as AbstractCore's users write them → the contract's messages.

A message may be a dict (AbstractCore's or OpenAI's shape), a `Message`, or one of the contract's
own; media may be paths, bytes, URLs or parts. Sending them is ``llm``'s.
"""

from __future__ import annotations

import base64
import mimetypes
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

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
    extra: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What an archive held that is not known here; it is saved again."""

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
            **self.extra,
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
            str(data["role"]),
            str(data.get("content") or ""),
            when,
            dict(data.get("metadata") or {}),
            extra={name: value for name, value in data.items() if name not in _ARCHIVED},
        )


_ARCHIVED = frozenset({"role", "content", "timestamp", "metadata"})

AnyMessage: TypeAlias = Message | Mapping[str, Any] | v1.Message
"""A message in any of the shapes that are understood."""

Media: TypeAlias = str | os.PathLike[str] | bytes | v1.Part | Mapping[str, Any]
"""A file's path, its contents, its URL, a part made by `penstock.image` and the like, or a dict
with ``path``, ``url`` or ``data`` (bytes or Base64), and perhaps ``media_type`` (or
``mime_type``)."""

_ROLES = {
    "system": v1.ROLE_SYSTEM,
    "developer": v1.ROLE_SYSTEM,
    "user": v1.ROLE_USER,
    "assistant": v1.ROLE_ASSISTANT,
    "tool": v1.ROLE_TOOL,
}

_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/yaml")
_TEXT_SUFFIXES = frozenset({".yaml", ".yml", ".toml", ".ini", ".log", ".rst", ".jsonl"})
"""Of text that Python has no media type for."""


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
    said = [to_wire(message, place) for place, message in enumerate(messages or ())]
    # A model may answer with nothing at all, and servers refuse messages without parts.
    found = [each for each in said if each.parts or each.role != v1.ROLE_ASSISTANT]
    parts = [attached(medium, place) for place, medium in enumerate(media or ())]
    if prompt or parts:
        asked = [make.text(prompt)] if prompt else []
        found.append(make.user(*asked, *parts))
    if not found:
        raise ValueError("there is nothing to answer: give a prompt, messages or media")
    return found


def to_wire(message: AnyMessage, place: int = 0) -> v1.Message:
    """One message as the contract's; ``place`` is its number, for errors."""
    if isinstance(message, v1.Message):
        return message
    if isinstance(message, Message):
        if message.wire is not None and make.text_of(message.wire) == message.content:
            return message.wire  # unless someone has changed the content since
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
        made = _PARTS.get(str(part.get("type")))
        if made is not None:
            try:
                return made(part)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{where}: {error!r} in {part!r:.80}") from error
    raise ValueError(f"{where}: no part of a message that is known: {part!r:.80}")


def _text_part(part: Mapping[str, Any]) -> v1.Part:
    return make.text(part["text"])


def _image_part(part: Mapping[str, Any]) -> v1.Part:
    given = part["image_url"]
    about: Mapping[str, Any] = given if isinstance(given, Mapping) else {"url": given}
    if not is_url(about["url"]):
        # Not a path: messages may come from someone who must not read files here.
        raise ValueError("image_url: no http(s): or data: URL")
    return make.image(about["url"], detail=about.get("detail") or part.get("detail") or "auto")


def _audio_part(part: Mapping[str, Any]) -> v1.Part:
    about = part["input_audio"]
    kind = {"mp3": "mpeg"}.get(about["format"], about["format"])
    return make.audio(_decoded(about["data"]), media_type=f"audio/{kind}")


def _file_part(part: Mapping[str, Any]) -> v1.Part:
    about = part.get("file") or part
    if about.get("file_id"):
        return make.document(file_id=about["file_id"], title=about.get("filename") or "")
    data, media_type = _of_data_url(about["file_data"])
    return make.document(data, media_type=media_type, title=about.get("filename") or "")


_PARTS: Mapping[str, Callable[[Mapping[str, Any]], v1.Part]] = {
    "text": _text_part,
    "input_text": _text_part,
    "output_text": _text_part,
    "image_url": _image_part,
    "input_image": _image_part,
    "input_audio": _audio_part,
    "file": _file_part,
    "input_file": _file_part,
}
"""Parts as OpenAI's two APIs write them."""


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
    try:
        source, media_type = _source(medium)
        if isinstance(source, str) and source.lower().startswith("data:"):
            source, said = _of_data_url(source)
            media_type = media_type or said
        return _attached(source, media_type or _type_of(source))
    except (TypeError, ValueError) as error:
        raise ValueError(f"media[{place}]: {error}") from error


def _source(medium: Media) -> tuple[Any, str]:
    """Where a medium is, and its media type where that is said."""
    if isinstance(medium, str | bytes | os.PathLike):
        return medium, ""
    if not isinstance(medium, Mapping):
        raise TypeError(f"a path, bytes, a URL, a part or a dict, not {type(medium).__name__}")
    media_type = str(medium.get("media_type") or medium.get("mime_type") or "")
    if path := medium.get("path") or medium.get("file_path"):
        return path, media_type
    if url := medium.get("url"):
        if not is_url(url):
            raise ValueError(f"url: {url!r:.80} is none")
        return url, media_type
    data = medium.get("data")
    if data is None:
        raise ValueError("a dict says path, url or data")
    return _decoded(data), media_type


def _attached(source: Any, media_type: str) -> v1.Part:
    if media_type.startswith("image/"):
        return make.image(source, media_type=media_type)
    if media_type == "application/pdf":
        return make.document(source, media_type=media_type)
    if media_type.startswith("audio/"):
        if is_url(source):
            raise ValueError("sounds are sent as bytes; no model fetches them")
        return make.audio(source, media_type=media_type)
    if media_type.startswith(_TEXT_TYPES):
        return _as_text(source)
    raise ValueError(
        f"{media_type} is nothing that models take; pictures (image/…), sounds (audio/…), PDF and "
        "text are"
    )


def is_url(source: Any) -> bool:
    """Whether it is an http:, https: or data: URL."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://", "data:"))


def _decoded(data: Any) -> bytes:
    """Bytes, or what their Base64 says."""
    return data if isinstance(data, bytes) else base64.b64decode(data, validate=True)


def _of_data_url(url: str) -> tuple[bytes, str]:
    """What a data: URL holds, and its media type."""
    head, comma, body = url.partition(",")
    if not comma or not head.lower().startswith("data:"):
        raise ValueError("no data: URL")
    media_type, *parameters = head[5:].split(";")
    if "base64" in parameters:
        return base64.b64decode(body, validate=True), media_type or "text/plain"
    return unquote_to_bytes(body), media_type or "text/plain"


def _type_of(source: Any) -> str:
    if isinstance(source, bytes):
        return make.media_type_of(source)
    name = str(os.fspath(source))
    if Path(name.lower()).suffix in _TEXT_SUFFIXES:
        return "text/plain"
    if not is_url(name):
        return make.media_type_of(name)
    found = mimetypes.guess_type(name.partition("?")[0])[0]
    if found is None:
        raise ValueError(f"{name} does not say what it is; give media_type, too")
    return found


def _as_text(source: Any) -> v1.Part:
    if isinstance(source, bytes):
        return make.text(source.decode("utf-8"))
    name = os.fspath(source)
    if is_url(name):
        return make.document(name, media_type="text/plain")
    return make.text(f"{Path(name).name}:\n\n{Path(name).read_text('utf-8')}")
