"""Pieces of the JSON bodies that providers are sent: JSON text as it is, and ``provider_options``.

Fields of one vendor do not belong here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from google.protobuf.struct_pb2 import Struct, Value
from penstock import v1

from penstock_server.errors import Failure, Violation

Json = dict[str, Any]

NO_PARAMETERS: Json = {"type": "object", "properties": {}, "additionalProperties": False}
"""The schema of a tool without arguments; some servers insist on one."""


def raw(text: str, path: str) -> msgspec.Raw:
    """JSON text as it is, digit for digit, once it is known to be JSON.

    Raises INVALID_REQUEST that names ``path`` where it is not.
    """
    data = text.encode()
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (ValueError, RecursionError) as error:
        raise Failure.invalid([Violation(path, f"is not JSON: {error}")]) from None
    return msgspec.Raw(data)


def parameters(tool: v1.Tool, path: str) -> object:
    """The schema of a tool's arguments."""
    return raw(tool.parameters, f"{path}.parameters") if tool.parameters else NO_PARAMETERS


def options(given: Struct, ours: Iterable[str]) -> Json:
    """``provider_options`` as JSON; INVALID_REQUEST for those that only Penstock may set."""
    if not given.fields:
        return {}
    wrong = [
        Violation(f"provider_options.{name}", "is set by Penstock itself")
        for name in sorted(given.fields.keys() & set(ours))
    ]
    if wrong:
        raise Failure.invalid(wrong)
    return {name: _plain(value) for name, value in given.fields.items()}


def merge(body: Json, more: Mapping[str, Any]) -> None:
    """Put ``more`` into ``body``: objects are merged, everything else is replaced."""
    for name, value in more.items():
        there = body.get(name)
        if isinstance(there, dict) and isinstance(value, dict):
            merged = dict(there)  # may be a table's
            merge(merged, value)
            body[name] = merged
        else:
            body[name] = value


def data_url(media_type: str, data: bytes) -> str:
    """Bytes as a URL (RFC 2397)."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def kept(part: v1.Part, provider: str) -> bytes:
    """What this kind of provider wants to see again; b"" where there is nothing of its own."""
    data = part.provider_data
    return data.data if data.provider == provider else b""


def kept_object(part: v1.Part, provider: str, path: str) -> Json:
    """The same, where it is a JSON object; {} where there is nothing.

    Raises INVALID_REQUEST where somebody has changed it.
    """
    data = kept(part, provider)
    if not data:
        return {}
    try:
        found: Json = msgspec.json.decode(data, type=dict)
    except (ValueError, RecursionError):
        problem = "is not what the provider gave: send it back unchanged"
        raise Failure.invalid([Violation(f"{path}.provider_data", problem)]) from None
    return found


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {name: _plain(inner) for name, inner in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(inner) for inner in value.list_value.values]
    if kind == "number_value":
        # A Struct knows no integers, and servers in Go refuse 40.0 where they want 40.
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return None if kind in (None, "null_value") else getattr(value, kind)
