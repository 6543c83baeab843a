"""The event stream parser, whatever pieces the bytes come in."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_server.providers.transport import sse
from penstock_server.providers.transport.sse import EventStream, EventTooLong, ServerSentEvent

STREAM = (
    "\ufeff: a keep-alive\n\n"
    'data: {"text": "für 東京 🎉"}\n\n'
    "event: error\r\nid: 7\r\nretry: 10\r\ndata:no space\r\n\r\n"
    "data: two\ndata:  lines\n\n"
    "data\n\n"  # a name alone is an empty value
    "event: nothing to say\n\n"
    "data: by carriage return\r\r"
    "nonsense: field\nwithout a colon\n\n"
    "data: [DONE]\n\n"
).encode()

# The same with one kind of line end: what nearly all servers send, and what is read faster.
PLAIN = STREAM.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

EVENTS = [
    ServerSentEvent("message", '{"text": "für 東京 🎉"}'.encode()),
    ServerSentEvent("error", b"no space"),
    ServerSentEvent("message", b"two\n lines"),
    ServerSentEvent("message", b""),
    ServerSentEvent("message", b"by carriage return"),
    ServerSentEvent("message", b"[DONE]"),
]


def read(*pieces: bytes) -> list[ServerSentEvent]:
    stream = EventStream()
    return [event for piece in pieces for event in stream.feed(piece)]


both = pytest.mark.parametrize("stream", [STREAM, PLAIN], ids=["any line ends", "plain"])


@both
def test_whole(stream: bytes) -> None:
    assert read(stream) == EVENTS


@both
def test_bytewise(stream: bytes) -> None:
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == EVENTS


@both
def test_cut_once_anywhere(stream: bytes) -> None:
    for cut in range(len(stream) + 1):
        assert read(stream[:cut], stream[cut:]) == EVENTS


@both
@settings(deadline=None, max_examples=50)  # a deadline is for quiet machines
@given(st.lists(st.integers(0, len(PLAIN)), max_size=8))
def test_cut_anyhow(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert read(*pieces) == EVENTS


@settings(deadline=None, max_examples=50)  # a deadline is for quiet machines
@given(st.lists(st.text(st.characters(blacklist_characters="\r\n", codec="utf-8")), max_size=5))
def test_any_data_comes_through(lines: list[str]) -> None:
    stream = "".join(f"data: {line}\n" for line in lines) + "\n"
    expected = [ServerSentEvent("message", "\n".join(lines).encode())] if lines else []
    assert read(stream.encode()) == expected


def test_events_come_as_soon_as_they_are_whole() -> None:
    stream = EventStream()
    assert stream.feed(b"data: a\n") == []
    assert stream.feed(b"\n") == [ServerSentEvent("message", b"a")]
    assert stream.feed(b"data: b\r\n\r") == [ServerSentEvent("message", b"b")]
    assert stream.feed(b"\ndata: c\n\n") == [ServerSentEvent("message", b"c")]


def test_the_last_empty_line_may_be_missing() -> None:
    for end in (b"", b"\n", b"\r\n"):
        stream = EventStream()
        assert stream.feed(b"data: a\n\ndata: [DONE]" + end) == [ServerSentEvent("message", b"a")]
        assert stream.close() == [ServerSentEvent("message", b"[DONE]")]
        assert stream.close() == []


@pytest.mark.parametrize("line", [b"data: ", b"", b": "])
def test_what_never_ends_is_refused(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    stream = EventStream()
    stream.feed(line + b"x" * 900)
    with pytest.raises(EventTooLong):
        stream.feed(b"x" * 200)


def test_many_lines_of_one_event_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(EventTooLong):
        EventStream().feed(b"data: 0123456789\n" * 200)
