"""Bytes that are no message, or nearly one, to every method: told by a status with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import message_factory
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.bounds import FACTOR, tried
from tests.fuzz.dialects import HOSTED
from tests.fuzz.likely import requests_of
from tests.fuzz.target import LOCAL, METHODS, Target
from tests.fuzz.wires import alternating, field, nested, varint

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

Change = Callable[[bytes], bytes]

# What unloads is not to hit by chance what the others need.
_MODELS = (*HOSTED, "local/none")


def _flip(place: int, bit: int) -> Change:
    def change(raw: bytes) -> bytes:
        if not raw:
            return b"\xff"
        where = place % len(raw)
        return raw[:where] + bytes([raw[where] ^ 1 << bit]) + raw[where + 1 :]

    return change


def _insert(place: int, piece: bytes) -> Change:
    return lambda raw: raw[: place % (len(raw) + 1)] + piece + raw[place % (len(raw) + 1) :]


_places = st.integers(0, 4_000)
_numbers = st.integers(1, 15) | st.sampled_from([16, 2_047, 536_870_911])
_changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(_flip, _places, st.integers(0, 7)),
    st.builds(_insert, _places, st.binary(min_size=1, max_size=8)),
    _places.map(lambda place: lambda raw: raw[:place]),
    st.integers(2, 40).map(lambda times: lambda raw: raw * times),
    # A field that comes twice, of a wrong wire type, or with nothing in it.
    st.builds(
        lambda number, kind, payload: lambda raw: raw + field(number, kind, payload),
        _numbers,
        st.integers(0, 7),
        st.binary(max_size=12),
    ),
    # A length that lies.
    st.builds(
        lambda number, length: lambda raw: raw + field(number, 2)[:-1] + varint(length),
        _numbers,
        st.sampled_from([1, 100, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1]),
    ),
    st.builds(
        lambda number, depth: lambda raw: raw + nested([number] * depth),
        _numbers,
        st.sampled_from([10, 99, 101, 400, 1_500]),
    ),
)

# Texts that are no UTF-8, deep nesting, and very many of something small.
SPECIAL: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(1_000),
    "ones": b"\xff" * 1_000,
    "overlong varint": b"\x08" + b"\x80" * 30 + b"\x01",
    "field number 0": b"\x00\x01",
    "groups without end": b"\x0b" * 50_000,
    "groups that end only": b"\x0c" * 100,
    "a group in a group": b"\x0b" * 5_000 + b"\x0c" * 5_000,
    "a model that is no text": field(1, 2, b"\xff\xfe"),
    "surrogates as UTF-8": field(1, 2, b"\xed\xa0\x80"),
    "overlong UTF-8": field(1, 2, b"\xc0\x80"),
    "100,000 empty messages": field(4, 2) * 100_000 + field(2, 2, b"\xff"),
    "100,000 unknown fields": field(500, 0, b"\1") * 100_000 + field(1, 2, b"\xff"),
    "20,000 wrong texts": field(1, 2, b"m") + field(2, 2, b"\xff") * 20_000,
    "20,000 wrong parts": field(4, 2, field(2, 2, field(1, 2, b"\xff")) * 20_000),
    "deep field 1": nested([1] * 3_000),
    "results in results": nested((4, 2), alternating((7, 2), 40)),
    "deep results in results": nested((4, 2), alternating((7, 2), 20_000)),
    "options in options": nested((12, 1, 2), alternating((5, 1, 2), 30)),
    "deep options in options": nested((12, 1, 2), alternating((5, 1, 2), 20_000)),
    "a stream's deep options": nested((1, 12, 1, 2), alternating((5, 1, 2), 20_000)),
}


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message(target: Target, method: str) -> None:
    target.warmed()
    for name, raw in SPECIAL.items():
        try:
            target.judge(method, raw)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
    target.check()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.timeout(60 + 120 * max(1, FACTOR))
def test_messages_with_something_changed(target: Target, method: str) -> None:
    kind = message_factory.GetMessageClass(METHODS[method].input_type)
    models = (LOCAL, *_MODELS) if "Generat" in method else _MODELS

    @tried(30)
    @given(requests_of(kind, models), st.lists(_changes, min_size=1, max_size=3))
    def ask(request: Any, changes: list[Change]) -> None:
        raw = request.SerializeToString()
        for change in changes:
            raw = change(raw)
        target.judge(method, raw)

    target.warmed()
    ask()
    target.check()
