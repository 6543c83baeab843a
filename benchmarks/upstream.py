"""A provider that costs next to nothing: Chat Completions over HTTP/1.1, answers ready-made.

``POST /v1/chat/completions`` answers `TOKENS` deltas, or one whole answer. The model says how:
"whole", "together" (all deltas in one write), "spaced" (each in a write of its own, a pause between
them), "late" (whole, after a pause), "cut" (half a stream), "broken" (HTTP 500). Of the request,
nothing but model and length is read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from typing import cast

import uvloop

TOKENS = 200
"""Deltas in one streamed answer."""

SPACING = 0.02
"""Seconds from one spaced delta to the next."""

LATENCY = 0.1
"""Seconds before a late answer, unless ``--latency`` says otherwise."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model":\s*"(\w+)"')


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def _delta(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion.chunk",
            "created": 1760000000,
            "model": "bench",
            "service_tier": "default",
            "system_fingerprint": "fp_0",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
            "usage": None,
        }
    )


_USAGE = {"prompt_tokens": 12, "completion_tokens": TOKENS, "total_tokens": TOKENS + 12}
DELTAS = [_chunk(_delta({"content": f" word{number}"})) for number in range(TOKENS)]
_END = _chunk(_delta({}, "stop")) + _chunk(_event({"id": "c", "choices": [], "usage": _USAGE}))
_END += _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_TOGETHER = _STREAM + b"".join(DELTAS) + _END

_ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Forty-two words. " * 14},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    }
).encode()
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)


_BROKEN = b"HTTP/1.1 500 Broken\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class _Connection(asyncio.Protocol):
    """One connection; requests one after the other."""

    def __init__(self, latency: float) -> None:
        self._latency = latency

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own kind
        self._loop = asyncio.get_running_loop()
        self._heard = b""

    def data_received(self, data: bytes) -> None:
        """Answer once a request is whole."""
        self._heard += data
        head, ends, body = self._heard.partition(b"\r\n\r\n")
        if not ends:
            return
        length = _LENGTH.search(head)
        if length and len(body) < int(length[1]):
            return
        self._heard = b""
        model = _MODEL.search(body)
        match model[1] if model else b"whole":
            case b"together":
                self._transport.write(_TOGETHER)
            case b"spaced":
                self._transport.write(_STREAM)
                self._say(0, self._loop.time())
            case b"cut":
                self._transport.write(_TOGETHER[: len(_TOGETHER) // 2])
                self._transport.close()
            case b"broken":
                self._transport.write(_BROKEN)
            case b"late":
                self._loop.call_later(self._latency, self._transport.write, WHOLE)
            case _:
                self._transport.write(WHOLE)

    def _say(self, number: int, started: float) -> None:
        if self._transport.is_closing():
            return
        if number == TOKENS:
            self._transport.write(_END)
            return
        self._transport.write(DELTAS[number])
        self._loop.call_at(started + (number + 1) * SPACING, self._say, number + 1, started)


async def serve(latency: float) -> None:
    """Listen on a free port, say which, and answer until told to stop."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(latency), "127.0.0.1", 0, backlog=2048)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=LATENCY)
    uvloop.run(serve(parser.parse_args().latency))
