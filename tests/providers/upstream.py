"""A real HTTP server on a loopback port that answers from a script, byte for byte.

It knows no API: a script says which status, headers and pieces of body go out and how the answer
ends, and the server tells what it was asked and when the other side hung up. Nothing in it waits
for a time; where a test has to step in between two pieces, the script holds an event.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

PATIENCE = 10.0
"""Seconds after which a test that waits for the server has failed."""

Ending = Literal["clean", "cut", "hold"]


@dataclass(frozen=True, slots=True)
class Script:
    """One answer.

    Each piece of ``body`` is an HTTP chunk; ``together`` puts all of them into one write. An event
    among the pieces is waited for, a number is a pause in seconds: the server is a slow one.
    ``ending``: "clean" is how HTTP ends an answer, "cut" closes the connection in the middle,
    "hold" says nothing more until the other side hangs up. ``raw`` replaces head and all.
    """

    body: Sequence[bytes | asyncio.Event | float] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    ending: Ending = "clean"
    together: bool = False
    raw: bytes | None = None


@dataclass(slots=True)
class Received:
    """One request, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        """The body, which has to be JSON."""
        return json.loads(self.body)


class Upstream:
    """The server: say `will` for each answer it is to give, in order; the rest is ``otherwise``.

    ``received`` are the requests; `asked` waits for the first. `hung_up` waits until the other side
    has closed a connection on which an answer was held, `down_to` until few enough are open.
    ``connections`` counts all that there were.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.open = 0
        self.otherwise: Script | Callable[[Received], Script] | None = None
        self._scripts: list[Script] = []
        self._hung_up = asyncio.Event()
        self._asked = asyncio.Event()
        self._closed = asyncio.Event()
        self._handlers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base URL."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def will(self, script: Script) -> None:
        """Answer the next request by ``script``."""
        self._scripts.append(script)

    def forget(self) -> None:
        """Begin anew: nothing was asked, nobody has hung up."""
        self.received.clear()
        self._asked.clear()
        self._hung_up.clear()

    async def hung_up(self) -> None:
        """Wait until the other side has closed a held connection."""
        await _soon(self._hung_up)

    async def down_to(self, connections: int) -> None:
        """Wait until no more than so many connections are open."""
        while self.open > connections:
            self._closed.clear()
            await _soon(self._closed)

    async def asked(self) -> None:
        """Wait for a request."""
        await _soon(self._asked)

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, backlog=2048)

    async def stop(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: those of asyncio.start_server complain when they are cancelled.
        handler = asyncio.ensure_future(self._connection(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while True:
                request = await _request(reader, number)
                self.received.append(request)
                self._asked.set()
                script = self._scripts.pop(0) if self._scripts else self.otherwise
                assert script is not None, "a request that the test does not expect"
                if not isinstance(script, Script):
                    script = script(request)
                await self._answer(script, reader, writer)
                if script.ending != "clean" or script.raw is not None:
                    break
        except ConnectionError:
            self._hung_up.set()  # while an answer was being written
        except asyncio.IncompleteReadError:
            pass  # between two requests, or in the middle of one
        finally:
            writer.close()
            self.open -= 1
            self._closed.set()

    async def _answer(
        self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if script.raw is not None:
            writer.write(script.raw)
            await writer.drain()
            if script.ending == "hold":
                await self._hold(reader)
            return
        headers = {"transfer-encoding": "chunked", **script.headers}
        out = f"HTTP/1.1 {script.status} Scripted\r\n".encode()
        out += b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
        out += b"\r\n"
        for piece in script.body:
            if isinstance(piece, asyncio.Event | float):
                writer.write(out)
                out = b""
                await (_soon(piece) if isinstance(piece, asyncio.Event) else asyncio.sleep(piece))
                continue
            if piece:  # an empty chunk would be the end
                out += b"%x\r\n%b\r\n" % (len(piece), piece)
            if not script.together:
                writer.write(out)
                await writer.drain()
                out = b""
                await asyncio.sleep(0)  # lets the other side, on the same loop, read this piece
        writer.write(out + (b"0\r\n\r\n" if script.ending == "clean" else b""))
        await writer.drain()
        if script.ending == "hold":
            await self._hold(reader)

    async def _hold(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(1024):
            pass
        self._hung_up.set()


async def _soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE):
        await event.wait()


async def _request(reader: asyncio.StreamReader, connection: int) -> Received:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, body, connection)


@asynccontextmanager
async def serving() -> AsyncIterator[Upstream]:
    """An upstream that listens."""
    upstream = Upstream()
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()


def as_json(body: object, status: int = 200, **headers: str) -> Script:
    """An answer of JSON."""
    return Script(
        [json.dumps(body).encode()],
        status,
        {"content-type": "application/json", **_dashed(headers)},
    )


def as_page(title: str, status: int = 200) -> Script:
    """A page for people, as proxies send it."""
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body>…</body></html>"
    return Script([page.encode()], status, {"content-type": "text/html; charset=utf-8"})


def sse(*events: object, done: bool = True) -> bytes:
    """The bytes of an event stream: JSON for each event, text as it is."""
    lines = [e if isinstance(e, str) else f"data: {json.dumps(e, ensure_ascii=False)}\n\n"
             for e in events]  # fmt: skip
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def as_stream(
    *pieces: bytes | asyncio.Event | float,
    ending: Ending = "clean",
    together: bool = False,
    **headers: str,
) -> Script:
    """An answer that is an event stream, in these pieces."""
    all_headers = {"content-type": "text/event-stream", **_dashed(headers)}
    return Script(pieces, 200, all_headers, ending, together)


def bytewise(data: bytes) -> list[bytes]:
    """Cut into single bytes."""
    return [data[i : i + 1] for i in range(len(data))]


def eventwise(data: bytes) -> list[bytes]:
    """Cut after every event."""
    return [piece + b"\n\n" for piece in data.split(b"\n\n") if piece]


def gzipped(body: bytes) -> Script:
    """A compressed answer of JSON."""
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    return Script([gzip.compress(body)], 200, headers)


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def chunks(
    deltas: Iterable[Mapping[str, Any]],
    finish: str | None = "stop",
    usage: Mapping[str, Any] | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """A streamed chat completion: a chunk for each delta, one for the end, one for the usage."""
    base: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m"}
    base |= more
    told: list[dict[str, Any]] = [
        {**base, "choices": [{"index": 0, "delta": dict(delta), "finish_reason": None}]}
        for delta in deltas
    ]
    if finish is not None:
        told.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage is not None:
        told.append({**base, "choices": [], "usage": dict(usage)})
    return told


def completion(
    message: Mapping[str, Any],
    finish: str | None = "stop",
    usage: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A whole chat completion."""
    said = {"role": "assistant", "content": None, **message}
    told: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m"}
    told["choices"] = [{"index": 0, "message": said, "finish_reason": finish}]
    if usage is not None:
        told["usage"] = dict(usage)
    return told | more
