"""Bytes that are no message: the wrong fields are named, at a bounded price."""

from __future__ import annotations

import time

import pytest
from penstock import v1
from penstock_server import wire
from penstock_server.errors import MAX_VIOLATIONS

from tests.fuzz.wires import alternating, field, nested

REQUEST = v1.GenerateRequest.DESCRIPTOR
BAD = b"\xff"

# Bytes → the fields that are told; "" where the message's own name is.
CASES: dict[str, tuple[bytes, list[str]]] = {
    "a text": (field(2, 2, BAD), ["prompt"]),
    "texts": (field(2, 2, BAD) + field(3, 2, b"fine") + field(1, 2, BAD), ["prompt", "model"]),
    "in a part": (
        field(4, 2) + field(4, 2, field(2, 2) + field(2, 2, field(1, 2, BAD))),
        ["messages[1].parts[1].text"],
    ),
    "a label": (field(11, 2, field(1, 2, BAD)), ["metadata[0].key"]),
    "after fields that nobody knows": (
        field(500, 0, b"\x80\x01") + field(501, 1, bytes(8)) + field(502, 5, bytes(4))
        + field(2, 2, BAD),
        ["prompt"],
    ),
    "before what makes no sense": (field(2, 2, BAD) + b"\x0b\x0b\x0b", ["prompt"]),
    "a length that lies": (field(2, 2)[:-1] + b"\x7f", [""]),
    "a length beyond all bounds": (field(2, 2)[:-1] + b"\xff" * 9 + b"\x01", [""]),
    "no number ends": (b"\xff" * 100, [""]),
    "a group": (b"\x0b" * 9, [""]),
    "too deep": (nested((4, 2), alternating((7, 2), 60)), ["messages[0]"]),
    "thousands deep": (nested((4, 2), alternating((7, 2), 20_000)), ["messages[0]"]),
    "options thousands deep": (
        nested((12, 1, 2), alternating((5, 1, 2), 20_000)),
        ["provider_options"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_wrong_fields_are_named(case: str) -> None:
    raw, fields = CASES[case]
    told = [violation.field for violation in wire.explain(raw, REQUEST)]
    assert told == [name or "penstock.v1.GenerateRequest" for name in fields]


def test_not_everything_is_looked_at() -> None:
    many = field(4, 2, field(2, 2, field(1, 2, BAD))) * 100_000
    started = time.perf_counter()
    assert len(wire.explain(many, REQUEST)) == MAX_VIOLATIONS
    (unknown,) = wire.explain(field(500, 0, b"\1") * 5_000_000 + field(2, 2, BAD), REQUEST)
    assert unknown.field == "penstock.v1.GenerateRequest"
    assert time.perf_counter() - started < 2
