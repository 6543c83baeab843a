"""Sessions as JSON: the form ``session-archive/v1``, which AbstractCore's sessions have, too.

::

    {"schema_version": "session-archive/v1",
     "session": {"id", "created_at", "provider", "model", "model_params", "system_prompt",
                 "tool_registry", "settings": {"auto_compact", "auto_compact_threshold"},
                 "summary"?, "assessment"?, "facts"?},
     "messages": [{"role", "content", "timestamp", "metadata"}, ...]}

An answer's own message, with what its provider has to see again, rides in the message's metadata
under ``penstock``: others pass over it. What a session does is not known here.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from penstock import v1
from penstock.conversation import Message

if TYPE_CHECKING:
    from penstock.session import BasicSession

SCHEMA = "session-archive/v1"

_WIRE = "penstock"
"""Where a message's metadata has the contract's own message, as Base64 of its bytes."""

_ROLES = frozenset({"system", "user", "assistant", "tool"})


class SessionError(ValueError):
    """A session cannot be read: the file is damaged, or no session's."""


def to_dict(session: BasicSession) -> dict[str, Any]:
    """A session in this form."""
    about: dict[str, Any] = {
        **session.extra,
        "id": session.id,
        "created_at": session.created_at.isoformat(),
        "provider": session.provider.provider if session.provider else None,
        "model": session.provider.model if session.provider else None,
        "model_params": dict(session.options),
        "system_prompt": session.system_prompt,
        "tool_registry": [tool.to_dict() for tool in session.tools],
        "settings": {
            "auto_compact": session.auto_compact,
            "auto_compact_threshold": session.auto_compact_threshold,
        },
    }
    for name in ("summary", "assessment", "facts"):
        if (value := getattr(session, name)) is not None:
            about[name] = value
    messages = [_message(message) for message in session.messages]
    return {"schema_version": SCHEMA, "session": about, "messages": messages}


def fill(session: BasicSession, data: Mapping[str, Any]) -> None:
    """Have a new session be what an archive says. Raises `SessionError`; then it is unchanged."""
    if not isinstance(data, Mapping):
        raise SessionError(f"a session is a JSON object, and this is a {type(data).__name__}")
    version = data.get("schema_version")
    if version != SCHEMA:
        raise SessionError(f"schema_version is {version!r}; {SCHEMA!r} can be read")
    about, listed = data.get("session"), data.get("messages")
    if not isinstance(about, Mapping):
        raise SessionError("session: missing, or no object")
    if not isinstance(listed, list):
        raise SessionError("messages: missing, or no list")
    messages = [_read_message(message, place) for place, message in enumerate(listed)]
    try:
        created = datetime.fromisoformat(about["created_at"]).astimezone()
    except (KeyError, TypeError, ValueError) as error:
        raise SessionError("session.created_at: missing, or no time") from error
    settings = about.get("settings") or {}
    session.id = str(about.get("id") or session.id)
    session.created_at = created
    session.system_prompt = about.get("system_prompt")
    session.messages = messages
    session.auto_compact = bool(settings.get("auto_compact", False))
    session.auto_compact_threshold = int(settings.get("auto_compact_threshold") or 6000)
    for name in ("summary", "assessment", "facts"):
        setattr(session, name, about.get(name))
    session.extra = {name: value for name, value in about.items() if name not in _KNOWN}


def write(filepath: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write a file whole or not at all: beside its place first, then into it."""
    target = Path(filepath)
    text = json.dumps(data, ensure_ascii=False, indent=2)  # before anything is touched
    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(
            OSError
        ):  # a new file is private; one that was there stays as it was
            Path(beside).chmod(target.stat().st_mode & 0o777)
        Path(beside).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(beside).unlink()
        raise


def read(filepath: str | os.PathLike[str]) -> dict[str, Any]:
    """A file's JSON object. Raises `SessionError` where it holds none, OSError as opening does."""
    try:
        data = json.loads(Path(filepath).read_bytes())
    except ValueError as error:
        raise SessionError(f"{os.fspath(filepath)} is damaged, or no JSON: {error}") from error
    if not isinstance(data, dict):
        raise SessionError(f"{os.fspath(filepath)} holds no JSON object")
    return data


_KNOWN = frozenset(
    {
        "id",
        "created_at",
        "provider",
        "model",
        "model_params",
        "system_prompt",
        "tool_registry",
        "settings",
        "summary",
        "assessment",
        "facts",
    }
)


def _message(message: Message) -> dict[str, Any]:
    data = message.to_dict()
    if message.wire is not None:
        raw = base64.b64encode(message.wire.SerializeToString()).decode("ascii")
        data["metadata"] = {**message.metadata, _WIRE: raw}
    return data


def _read_message(data: Any, place: int) -> Message:
    if not isinstance(data, Mapping) or data.get("role") not in _ROLES:
        raise SessionError(
            f"messages[{place}]: no object with a role of {', '.join(sorted(_ROLES))}"
        )
    if not isinstance(data.get("content"), str | None):
        raise SessionError(f"messages[{place}].content: no text")
    try:
        message = Message.from_dict(data)
        raw = message.metadata.pop(_WIRE, None)
        if raw is not None:
            message.wire = v1.Message.FromString(base64.b64decode(raw, validate=True))
    except (TypeError, ValueError, DecodeError) as error:
        raise SessionError(f"messages[{place}]: {error}") from error
    return message
