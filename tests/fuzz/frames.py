"""HTTP/2 and gRPC framing, written by hand: what no library would write (RFC 9113, RFC 7541)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE = range(9)
CONTINUATION = 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8

HELLO = PREFACE + b"\0\0\0\4\0\0\0\0\0"
"""The preface and empty settings."""

Header = tuple[bytes, bytes]


def frame(
    kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0, length: int | None = None
) -> bytes:
    """One frame; ``length`` is what it says of itself, where that is a lie."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def integer(number: int, prefix: int, first: int = 0) -> bytes:
    """HPACK's kind of integer."""
    most = (1 << prefix) - 1
    if number < most:
        return bytes([first | number])
    out = bytearray([first | most])
    number -= most
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def block(headers: Iterable[Header]) -> bytes:
    """Headers, all of them literal."""
    return b"".join(
        b"\0" + b"".join(integer(len(text), 7) + text for text in header) for header in headers
    )


def usual(path: bytes, *more: Header, without: Iterable[bytes] = ()) -> list[Header]:
    """The headers of a call, in which ``more`` replaces what has the same name."""
    given = {name for name, _ in more} | set(without)
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    # Pseudo-headers come first.
    kept = [header for header in headers if header[0] not in given]
    return sorted([*kept, *more], key=lambda header: not header[0].startswith(b":"))


def message(payload: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """A gRPC message."""
    size = len(payload) if length is None else length
    return bytes([compressed]) + size.to_bytes(4, "big") + payload


def call(headers: Iterable[Header], body: bytes, stream: int = 1) -> bytes:
    """A whole call, in frames of the usual size."""
    out = frame(HEADERS, block(headers), flags=END_HEADERS, stream=stream)
    pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)] or [b""]
    for number, piece in enumerate(pieces, 1):
        last = END_STREAM if number == len(pieces) else 0
        out += frame(DATA, piece, flags=last, stream=stream)
    return out


class Wire:
    """A connection of bytes.

    Example::

        with Wire(address) as wire:
            wire.send(HELLO + call(usual(b"/a/b"), message(b"")))
            assert wire.ended(1)
    """

    def __init__(self, address: str) -> None:
        if address.startswith("unix:"):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(10)
            self._socket.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._seen = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave without a word."""
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """Send; False where the other side has closed already, or takes no more."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def ended(self, stream: int, patience: float = 10.0) -> bool:
        """Whether a stream, or all of the connection, was ended by the other side in time."""
        deadline = time.monotonic() + patience
        while True:
            while len(self._seen) >= 9:
                size = int.from_bytes(self._seen[:3], "big")
                if len(self._seen) < 9 + size:
                    break
                kind, flags = self._seen[3], self._seen[4]
                told = int.from_bytes(self._seen[5:9], "big") & 0x7FFFFFFF
                self._seen = self._seen[9 + size :]
                over = kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)
                if kind == GOAWAY or (told == stream and over):
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._socket.settimeout(left)
            try:
                more = self._socket.recv(65_536)
            except TimeoutError:
                return False
            except OSError:
                return True
            if not more:
                return True
            self._seen += more
