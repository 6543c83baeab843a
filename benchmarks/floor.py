"""A gateway without any logic: what gRPC, HTTP and JSON cost in Python, and nothing else.

It sends a ready-made body upstream and copies the text of the answer: no checks, no routing, no
errors, no parts, no timings, no log. It answers the same contract, so that the load is the same.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

import aiohttp
import grpc
import msgspec
import uvloop
from penstock import v1


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Chunk).decode
_HEADERS = {"content-type": "application/json"}


class Floor(v1.GenerationServiceServicer):
    """Copies. ``coalesce``: deltas of one network read share a message."""

    def __init__(self, upstream: str, coalesce: bool) -> None:
        self._url = f"{upstream}/chat/completions"
        self._coalesce = coalesce
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def _post(self, model: str, prompt: str, stream: bool) -> object:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}
        return self._session.post(self._url, data=msgspec.json.encode(body), headers=_HEADERS)

    async def Generate(self, request: v1.GenerateRequest, context: object) -> v1.GenerateResponse:
        """The answer's text."""
        model = request.model.partition("/")[2]
        async with self._post(model, request.prompt, False) as response:  # type: ignore[attr-defined]
            answer = _decode(await response.read())
        message = answer.choices[0].message
        assert message is not None
        return v1.GenerateResponse(message=v1.Message(parts=[v1.Part(text=message.content or "")]))

    async def StreamGenerate(  # type: ignore[override] # writes instead of yielding
        self, request: v1.StreamGenerateRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> None:
        """The deltas' texts."""
        asked = request.request
        model = asked.model.partition("/")[2]
        rest = b""
        async with self._post(model, asked.prompt, True) as response:  # type: ignore[attr-defined]
            while piece := await response.content.readany():
                *events, rest = (rest + piece).split(b"\n\n")
                texts = []
                for event in events:
                    data = event[6:]
                    if data == b"[DONE]":
                        break
                    choices = _decode(data).choices
                    delta = choices[0].delta if choices else None
                    if delta is not None and delta.content:
                        texts.append(delta.content)
                if self._coalesce:
                    texts = ["".join(texts)]
                for text in texts:
                    await context.write(
                        v1.StreamGenerateResponse(part_delta=v1.PartDelta(index=0, text=text))
                    )
        await context.write(v1.StreamGenerateResponse(completed=v1.GenerateResponse()))


async def serve(upstream: str, coalesce: bool) -> None:
    """Listen on a free port, say which, and answer until told to stop."""
    server = grpc.aio.server()
    v1.add_GenerationServiceServicer_to_server(Floor(upstream, coalesce), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream")
    parser.add_argument("--coalesce", action="store_true")
    args = parser.parse_args()
    uvloop.run(serve(args.upstream, args.coalesce))
