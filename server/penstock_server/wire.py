"""Bytes that are no message: what is wrong with them, told by field.

gRPC by itself answers such a call with INTERNAL or UNKNOWN and no reason. This room only looks at
messages that failed to parse; the hot path does not come through here. It reads the bytes itself,
and no more of them than is worth it: protobuf's own reader of unknown fields takes the process with
it where messages are nested thousands deep.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from penstock_server.errors import MAX_VIOLATIONS, Violation

_LENGTH_DELIMITED = 2
_SIZES = {1: 8, 5: 4}  # wire type → how many bytes

# Protobuf itself reads no messages that are nested deeper.
_DEEPEST = 100

# How many fields are looked at; enough for what people send by mistake.
_MOST_FIELDS = 50_000


class _Field(NamedTuple):
    number: int
    wire_type: int
    payload: memoryview


def explain(raw: bytes, descriptor: Descriptor) -> list[Violation]:
    """Why ``raw`` is not a message of that type; at least one violation, at most so many are told.

    Example: a prompt of ``b"\\xff"`` gives ``[Violation("prompt", "is not valid UTF-8")]``.
    """
    found = list(islice(_Reader().problems(memoryview(raw), descriptor), MAX_VIOLATIONS))
    return found or [
        Violation(
            descriptor.full_name,
            "is not a valid protobuf message of this type; is the client's contract current?",
        )
    ]


class _Reader:
    """Reads one message, until it has read enough."""

    def __init__(self) -> None:
        self._left = _MOST_FIELDS

    def problems(
        self, raw: memoryview, descriptor: Descriptor, path: str = "", depth: int = 1
    ) -> Iterator[Violation]:
        """Texts that are none, and messages that are nested too deeply."""
        if depth > _DEEPEST:
            first = path.partition(".")[0]
            yield Violation(first, f"is nested more than {_DEEPEST} messages deep")
            return
        seen: dict[int, int] = {}
        for number, wire_type, payload in self._fields(raw):
            field = descriptor.fields_by_number.get(number)
            position = seen.get(number, 0)
            seen[number] = position + 1
            if field is None or wire_type != _LENGTH_DELIMITED:
                continue
            name = f"{path}{field.name}" + (f"[{position}]" if field.is_repeated else "")
            if field.type == FieldDescriptor.TYPE_STRING:
                try:
                    str(payload, "utf-8")
                except UnicodeDecodeError as error:
                    yield Violation(name, f"is not valid UTF-8 (byte {error.start})")
            elif field.message_type is not None:
                yield from self.problems(payload, field.message_type, f"{name}.", depth + 1)

    def _fields(self, raw: memoryview) -> Iterator[_Field]:
        """The fields, up to the first that makes no sense."""
        place = 0
        while place < len(raw) and self._left > 0:
            self._left -= 1
            tag, place = _varint(raw, place)
            number, wire_type = tag >> 3, tag & 7
            if wire_type == 0:
                begin = place
                _, place = _varint(raw, place)
                yield _Field(number, wire_type, raw[begin:place])
                continue
            size = _SIZES.get(wire_type, 0)
            if wire_type == _LENGTH_DELIMITED:
                size, place = _varint(raw, place)
            elif not size:
                return  # groups are older than our contract
            if size > len(raw) - place:
                return
            yield _Field(number, wire_type, raw[place : place + size])
            place += size


def _varint(raw: memoryview, place: int) -> tuple[int, int]:
    """The number there and the place after it; the end, where there is none."""
    number = shift = 0
    while place < len(raw) and shift < 70:
        byte = raw[place]
        place += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, place
    return 0, len(raw)
