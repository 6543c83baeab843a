"""Server-sent events out of bytes, whatever pieces the bytes come in.

The format is WHATWG HTML, section 9.2.6 "Interpreting an event stream". What events mean does not
belong here. Our own and not httpx-sse, which hands out one event for each line iteration over
decoded text: here a network read goes in whole and all its events come out together, still bytes,
for the JSON decoder to read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""The longest event; a longer one is no event stream but a mistake, and would eat the memory."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event: its type ("message" unless said otherwise) and its data, lines joined."""

    type: str
    data: bytes


class EventTooLong(ValueError):
    """An event is longer than ``MAX_EVENT_BYTES``."""


class EventStream:
    """Reads one stream.

    Cutting at bytes is safe inside UTF-8: no byte of a longer sequence looks like a line's end.

    Example::

        stream = EventStream()
        stream.feed(b"data: a\\n") == []
        stream.feed(b"\\ndata: b\\n\\n: ping\\n\\n") == [("message", b"a"), ("message", b"b")]
    """

    def __init__(self) -> None:
        self._tail: list[bytes] = []  # a line that has not ended
        self._tail_size = 0
        self._data: list[bytes] = []
        self._data_size = 0
        self._type = ""
        self._skip_newline = False  # the piece before ended with \r: a \n now belongs to it
        self._at_start = True

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        """The events that ``piece`` completes. Raises `EventTooLong`."""
        between = not (self._tail or self._data or self._type or self._skip_newline)
        if between and b"\r" not in piece:
            return self._feed_plainly(piece)
        if self._skip_newline and piece:
            self._skip_newline = False
            piece = piece.removeprefix(b"\n")
        if b"\n" not in piece and b"\r" not in piece:
            self._keep(piece)
            return []
        self._skip_newline = piece.endswith(b"\r")
        lines = _LINE_END.split(b"".join((*self._tail, piece)))
        self._tail, self._tail_size = [], 0
        self._keep(lines.pop())
        events: list[ServerSentEvent] = []
        for line in lines:
            self._line(line, events)
        return events

    def _feed_plainly(self, piece: bytes) -> list[ServerSentEvent]:
        """`feed` for what nearly always comes: whole events, lines that end with \\n alone."""
        events: list[ServerSentEvent] = []
        blocks = piece.split(b"\n\n")
        rest = blocks.pop()
        for block in blocks:
            # "data: …", or "event: …" before it, and nothing else: no need to look at each line.
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(ServerSentEvent("message", block[6:]))
                continue
            name, line, data = block.partition(b"\ndata: ")
            if line and name.startswith(b"event: ") and b"\n" not in name and b"\n" not in data:
                events.append(ServerSentEvent(name[7:].decode("utf-8", "replace"), data))
                continue
            for each in (*block.split(b"\n"), b""):
                self._line(each, events)
        if events:
            self._at_start = False
        if rest:
            *lines, last = rest.split(b"\n")
            for each in lines:
                self._line(each, events)
            if last:
                self._keep(last)
        return events

    def close(self) -> list[ServerSentEvent]:
        """The stream has ended in good order: what remains counts as complete.

        The standard drops it; servers that forget the last empty line mean it.
        """
        events: list[ServerSentEvent] = []
        for line in (b"".join(self._tail), b""):
            self._line(line, events)
        self._tail, self._tail_size = [], 0
        return events

    def _keep(self, piece: bytes) -> None:
        self._tail.append(piece)
        self._tail_size += len(piece)
        self._check(self._tail_size)

    def _line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                events.append(ServerSentEvent(self._type or "message", data))
            self._data, self._data_size, self._type = [], 0, ""
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_size += len(value)
            self._check(self._data_size)
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        # An empty name is a comment, such as a keep-alive; "id" and "retry" are for reconnecting.

    def _check(self, size: int) -> None:
        if size > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
