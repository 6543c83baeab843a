"""A provider over HTTP that can be made to fail in every way one fails, at any moment.

It speaks Chat Completions, in a thread of its own, and answers "say NUMBER COUNT" with that
number's words, and "say on and on" without end. `mode` says how, for what is asked from now on;
`refuse`, `swallow` and `listen` are about its port.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

from tests.support.flavours import LoopThread

Mode = Literal["well", "silent", "cut", "garbage", "no http", "drip"]

SPACING = 0.01
"""Seconds between two words of a stream."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ASKED = re.compile(rb"say (\d+) (\d+)")
_STREAMED = re.compile(rb'"stream": ?true')
_FLOODED = b"say on and on"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n"
_FLOOD = 16 * 1024


def _delta(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    told = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return _chunk(b"data: " + json.dumps(told).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_END = _delta("", "stop") + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_STREAM = _HEAD % (b"text/event-stream", b"transfer-encoding: chunked\r\n")


class FaultyUpstream:
    """The provider. ``finished`` counts, by number, the answers that went out whole."""

    def __init__(self) -> None:
        self.mode: Mode = "well"
        self.finished: Counter[int] = Counter()
        self.written = 0
        """Bytes that flow control has let out, to whoever asked to "say on and on"."""
        self.connections: set[_Connection] = set()
        self.largest = 0
        """The largest body that came."""
        self._loop = LoopThread()
        self._server: asyncio.Server | None = None
        self._fillers: list[socket.socket] = []
        self.port = 0
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def listen(self) -> None:
        """Take connections, at the same port as ever."""
        while self._fillers:
            self._fillers.pop().close()

        async def listen() -> None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: _Connection(self), "127.0.0.1", self.port, backlog=2048
            )
            self.port = self._server.sockets[0].getsockname()[1]

        self._loop.run(listen())

    def refuse(self) -> None:
        """Nobody listens any more, and all connections are cut."""

        async def close() -> None:
            assert self._server is not None
            self._server.close()
            for connection in list(self.connections):
                connection.abort()

        self._loop.run(close())

    def swallow(self) -> None:
        """Leave new connections without an answer of any kind: not even the kernel takes them."""
        self.refuse()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0)
        self._fillers.append(listener)
        for _ in range(4):  # more than a backlog of 0 takes
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def close(self) -> None:
        self.refuse()
        self._loop.close()


@contextmanager
def faulty_upstream() -> Iterator[FaultyUpstream]:
    upstream = FaultyUpstream()
    try:
        yield upstream
    finally:
        upstream.close()


class _Connection(asyncio.Protocol):
    """One connection; requests one after the other."""

    def __init__(self, upstream: FaultyUpstream) -> None:
        self._upstream = upstream
        self._heard = bytearray()
        self._wanted = 0
        self._flowing = True
        self.flooding = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._upstream.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.connections.discard(self)

    def pause_writing(self) -> None:
        self._flowing = False

    def resume_writing(self) -> None:
        self._flowing = True
        if self.flooding:
            self._flood()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if not self._wanted:
            end = self._heard.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._heard, 0, end)
            self._wanted = end + 4 + (int(length[1]) if length else 0)
        if len(self._heard) < self._wanted:
            return
        body, self._heard, self._wanted = bytes(self._heard), bytearray(), 0
        self._upstream.largest = max(self._upstream.largest, len(body))
        asked = _ASKED.search(body)
        number, count = (int(asked[1]), int(asked[2])) if asked else (0, 1)
        said = [f"{number}.{index} " for index in range(count)]
        said[-1] = said[-1].rstrip()
        mode = "flood" if _FLOODED in body else self._upstream.mode
        streamed = _STREAMED.search(body) is not None
        self._answer(mode, number, said, streamed)

    def _answer(self, mode: str, number: int, said: list[str], streamed: bool) -> None:
        write = self._transport.write
        whole = json.dumps(
            {
                "id": "c",
                "object": "chat.completion",
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "".join(said)},
                        "finish_reason": "stop",
                    }
                ],
            }
        ).encode()
        head = _HEAD % (b"application/json", b"content-length: %d\r\n" % len(whole))
        match mode:
            case "silent":
                return
            case "no http":
                write(b"\x00\xffgarbage, and no HTTP at all\r\n\r\n" * 20)
                self._transport.close()
            case "garbage" if streamed:
                write(_STREAM + _delta(said[0]) + _chunk(b"data: {\xff\xfe]]nonsense\n\n"))
            case "garbage":
                write(head + b"\xff" * len(whole))
            case "cut" if streamed:
                write(_STREAM + b"".join(map(_delta, said[: len(said) // 2])))
                self._loop.call_later(SPACING, self._transport.close)
            case "cut":
                write(head + whole[: len(whole) // 2])
                self._loop.call_later(SPACING, self._transport.close)
            case "drip":
                answer = _STREAM + b"".join(map(_delta, said)) + _END if streamed else head + whole
                self._drip(answer)
            case "flood":
                write(_STREAM)
                self.flooding = True
                self._flood()
            case _ if streamed:
                write(_STREAM)
                self._say(number, said, 0)
            case _:
                write(head + whole)
                self._upstream.finished[number] += 1

    def _say(self, number: int, said: list[str], index: int) -> None:
        if self._transport.is_closing():
            return
        if index == len(said):
            self._transport.write(_END)
            self._upstream.finished[number] += 1
            return
        self._transport.write(_delta(said[index]))
        self._loop.call_later(SPACING, self._say, number, said, index + 1)

    def _drip(self, answer: bytes) -> None:
        if answer and not self._transport.is_closing():
            self._transport.write(answer[:1])
            self._loop.call_later(1.0, self._drip, answer[1:])

    def _flood(self) -> None:
        piece = _delta("x" * _FLOOD)
        while self._flowing and not self._transport.is_closing():
            self._transport.write(piece)
            self._upstream.written += len(piece)


Cause = Callable[[FaultyUpstream], None]


def does(mode: Mode) -> Cause:
    """The fault of answering in that way."""

    def cause(upstream: FaultyUpstream) -> None:
        upstream.mode = mode

    return cause
