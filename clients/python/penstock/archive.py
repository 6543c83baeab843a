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
from dataclasses import dataclass, field
from datetime import UTC, datetime
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

THRESHOLD = 6000
"""Tokens from which on a session that compacts by itself does so, where nobody says otherwise."""

OPTIONS = ("timeout", "temperature", "seed")
"""What a session may say for its calls."""

_WHOLE = frozenset({"schema_version", "session", "messages"})
_ROLES = frozenset({"system", "user", "assistant", "tool"})


class SessionError(ValueError):
    """A session cannot be read: the file is damaged, or no session's.

    Example::

        try:
            session = BasicSession.load("ada.json")
        except penstock.SessionError as error:
            print(error)  # such as: messages[3].content: missing, or no text
    """


@dataclass
class Archived:
    """A session as its archive says it; all of it has been checked."""

    messages: list[Message]
    about: dict[str, Any]
    """The archive's ``session``: whole, for what is not known here to be saved again."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What stood beside ``session`` and ``messages``."""
    id: str = ""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    system_prompt: str | None = None
    auto_compact: bool = False
    auto_compact_threshold: int = THRESHOLD
    options: dict[str, Any] = field(default_factory=dict)
    """Of ``model_params``, what a session has a say in."""


def to_dict(session: BasicSession) -> dict[str, Any]:
    """A session in this form."""
    before = session.archived or Archived([], {})
    about: dict[str, Any] = {
        **before.about,
        "id": session.id,
        "created_at": session.created_at.isoformat(),
        "model_params": {**_without_options(before.about.get("model_params")), **session.options},
        "system_prompt": session.system_prompt,
        "settings": {
            **(before.about.get("settings") or {}),
            "auto_compact": session.auto_compact,
            "auto_compact_threshold": session.auto_compact_threshold,
        },
    }
    # A session that is only read keeps what it was.
    about.setdefault("provider", None)
    about.setdefault("model", None)
    about.setdefault("tool_registry", [])
    if session.provider is not None:
        about |= {"provider": session.provider.provider, "model": session.provider.model}
    if session.tools:
        about["tool_registry"] = [tool.to_dict() for tool in session.tools]
    for name in ("summary", "assessment", "facts"):
        if (value := getattr(session, name)) is not None:
            about[name] = value
    messages = [_message(message) for message in session.messages]
    return {**before.extra, "schema_version": SCHEMA, "session": about, "messages": messages}


def parse(data: Any) -> Archived:
    """What an archive says. Raises `SessionError`, which says what is wrong with it."""
    if not isinstance(data, Mapping):
        raise SessionError(f"a session is a JSON object, and this is a {type(data).__name__}")
    version = data.get("schema_version")
    if version != SCHEMA:
        raise SessionError(f"schema_version is {version!r}; {SCHEMA!r} can be read")
    about = _get(data, "session", Mapping, "an object", required=True)
    listed = _get(data, "messages", list, "a list", required=True)
    settings = _get(about, "session.settings", Mapping, "an object") or {}
    try:
        created = datetime.fromisoformat(about["created_at"]).astimezone()
    except (KeyError, TypeError, ValueError) as error:
        raise SessionError("session.created_at: missing, or no time") from error
    threshold = _get(settings, "session.settings.auto_compact_threshold", int, "a whole number")
    params = _get(about, "session.model_params", Mapping, "an object") or {}
    return Archived(
        [_read_message(message, place) for place, message in enumerate(listed)],
        dict(about),
        {name: value for name, value in data.items() if name not in _WHOLE},
        _get(about, "session.id", str, "text", required=True),
        created,
        _get(about, "session.system_prompt", str, "text"),
        bool(_get(settings, "session.settings.auto_compact", bool, "true or false")),
        threshold or THRESHOLD,
        {
            name: value
            for name in OPTIONS
            if (value := _get(params, f"session.model_params.{name}", int | float, "a number"))
            is not None
        },
    )


def _get(data: Mapping[str, Any], path: str, kind: Any, words: str, required: bool = False) -> Any:
    value = data.get(path.rpartition(".")[2])
    if value is None and not required:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SessionError(f"{path}: {'missing' if value is None else f'is no {_noun(words)}'}")
    return value


def _noun(words: str) -> str:
    return words.removeprefix("a ").removeprefix("an ")


def _without_options(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if name not in OPTIONS}


def write(filepath: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write a file whole or not at all: beside its place first, then into it."""
    target = Path(os.path.realpath(filepath))  # a link stays one
    text = _text(data)  # before anything is touched
    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # a new file is private; an old one stays as it was
            Path(beside).chmod(target.stat().st_mode & 0o777)
        Path(beside).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(beside).unlink()
        raise


def _text(data: Mapping[str, Any]) -> str:
    """JSON with a line for each message, so that versions of a file can be compared.

    Message by message, since ``indent`` is encoded by Python itself, which would hold up other
    threads for tens of milliseconds.
    """
    fields = []
    for name, value in data.items():
        lines = _json(value)
        if name == "messages":
            lines = "[\n    " + ",\n    ".join(map(_json, value)) + "\n  ]" if value else "[]"
        fields.append(f"  {_json(name)}: {lines}")
    return "{\n" + ",\n".join(fields) + "\n}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def read(filepath: str | os.PathLike[str]) -> dict[str, Any]:
    """A file's JSON object. Raises `SessionError` where it holds none, OSError as opening does."""
    try:
        data = json.loads(Path(filepath).read_bytes())
    except (ValueError, RecursionError) as error:
        raise SessionError(f"{os.fspath(filepath)} is damaged, or no JSON: {error}") from error
    if not isinstance(data, dict):
        raise SessionError(f"{os.fspath(filepath)} holds no JSON object")
    return data


def _message(message: Message) -> dict[str, Any]:
    data = message.to_dict()
    if message.wire is not None:
        raw = base64.b64encode(message.wire.SerializeToString()).decode("ascii")
        data["metadata"] = {**message.metadata, _WIRE: raw}
    return data


def _read_message(data: Any, place: int) -> Message:
    if not isinstance(data, Mapping) or str(data.get("role")) not in _ROLES:
        raise SessionError(
            f"messages[{place}]: no object with a role of {', '.join(sorted(_ROLES))}"
        )
    if not isinstance(data.get("content", 0), str | None):
        raise SessionError(f"messages[{place}].content: missing, or no text")
    if not isinstance(data.get("metadata"), Mapping | None):
        raise SessionError(f"messages[{place}].metadata: no object")
    try:
        message = Message.from_dict(data)
        raw = message.metadata.pop(_WIRE, None)
        if raw is not None:
            message.wire = v1.Message.FromString(base64.b64decode(raw, validate=True))
    except (TypeError, ValueError, DecodeError) as error:
        raise SessionError(f"messages[{place}]: {error}") from error
    return message
