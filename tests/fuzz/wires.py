"""Protobuf's wire format, written by hand: what libraries refuse to write."""

from __future__ import annotations

from collections.abc import Sequence


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, wire_type: int, payload: bytes = b"") -> bytes:
    """One field; a length is put before what has one."""
    length = varint(len(payload)) if wire_type == 2 else b""
    return varint(number << 3 | wire_type) + length + payload


def nested(path: Sequence[int], inner: bytes = b"") -> bytes:
    """Messages in messages: the field ``path[0]`` with ``path[1]`` in it, and so on."""
    for number in reversed(path):
        inner = field(number, 2, inner)
    return inner


def alternating(path: Sequence[int], times: int, inner: bytes = b"") -> bytes:
    """The fields of ``path`` in one another, again and again."""
    # From the inside: what is outside only adds a head, so it is put together in reverse.
    heads: list[bytes] = []
    size = len(inner)
    for _ in range(times):
        for number in reversed(path):
            heads.append(varint(number << 3 | 2) + varint(size))
            size += len(heads[-1])
    return b"".join(reversed(heads)) + inner
