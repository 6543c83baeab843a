"""Bytes that are no message: what is wrong with them, told by field.

gRPC by itself answers such a call with INTERNAL or UNKNOWN and no reason. This room only looks at
messages that failed to parse; the hot path does not come through here.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from penstock_server.errors import Violation

_LENGTH_DELIMITED = 2


def explain(raw: bytes, descriptor: Descriptor) -> list[Violation]:
    """Why ``raw`` is not a message of that type; at least one violation.

    Example: a prompt of ``b"\\xff"`` gives ``[Violation("prompt", "is not valid UTF-8")]``.
    """
    found = list(_bad_text(raw, descriptor, ""))
    return found or [
        Violation(
            descriptor.full_name,
            "is not a valid protobuf message of this type; is the client's contract current?",
        )
    ]


def _bad_text(raw: bytes, descriptor: Descriptor, path: str) -> Iterator[Violation]:
    try:
        # Any message parses as an Empty whose fields are all unknown.
        unknown = UnknownFieldSet(Empty.FromString(raw))
    except DecodeError:
        return
    seen: dict[int, int] = {}
    for piece in unknown:  # type: ignore[attr-defined] # the stubs do not know that it iterates
        field = descriptor.fields_by_number.get(piece.field_number)
        position = seen.get(piece.field_number, 0)
        seen[piece.field_number] = position + 1
        if field is None or piece.wire_type != _LENGTH_DELIMITED:
            continue
        name = f"{path}{field.name}" + (f"[{position}]" if field.is_repeated else "")
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                piece.data.decode("utf-8")
            except UnicodeDecodeError as error:
                yield Violation(name, f"is not valid UTF-8 (byte {error.start})")
        elif field.message_type is not None:
            yield from _bad_text(piece.data, field.message_type, f"{name}.")
