"""Lines of JSON out of bytes, whatever pieces the bytes come in (github.com/ndjson/ndjson-spec).

What a line means does not belong here.
"""

from __future__ import annotations

MAX_LINE_BYTES = 32 * 1024 * 1024
"""The longest line; a longer one is a mistake, and would eat the memory."""


class LineTooLong(ValueError):
    """A line is longer than ``MAX_LINE_BYTES``."""


class Lines:
    """Reads one stream; empty lines are passed over.

    Example::

        lines = Lines()
        lines.feed(b'{"a":1}\\n{"b"') == [b'{"a":1}']
        lines.feed(b":2}\\n") == [b'{"b":2}']
    """

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that ``piece`` completes. Raises `LineTooLong`."""
        *whole, rest = piece.split(b"\n")
        if whole:
            whole[0] = b"".join((*self._tail, whole[0]))
            self._tail, self._size = [], 0
        self._tail.append(rest)
        self._size += len(rest)
        if self._size > MAX_LINE_BYTES:
            raise LineTooLong(f"a line of more than {MAX_LINE_BYTES} bytes")
        return [line for line in whole if line and not line.isspace()]

    def close(self) -> list[bytes]:
        """The last line, where it has no end."""
        line, self._tail = b"".join(self._tail), []
        return [line] if line and not line.isspace() else []
