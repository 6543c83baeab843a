"""Keys are told to nobody: not in errors, not in the log of a real gateway, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import penstock
import pytest

from tests.providers.upstream import Script, Upstream, as_json, as_stream, serving
from tests.support.processes import gateway

KEY = "sk-proj-A1b2C3d4E5f6G7h8"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as running:
        yield running


@pytest.mark.parametrize("kind", ["openai", "anthropic", "ollama", "groq"])
async def test_a_key_that_comes_back_goes_no_further(upstream: Upstream, kind: str) -> None:
    values = [f"kind={kind}", f"base_url={upstream.url}", "api_key_env=THE_KEY"]
    values += ["retry.attempts=2", "retry.first_pause=0.01"]
    flags = [flag for value in values for flag in ("--set", f"providers.up.{value}")]
    told = f"key {KEY} of {KEY[:8]}****{KEY[-4:]} is wrong"
    answers = [
        as_json({"error": {"message": told}}, 401, x_request_id=f"req-{KEY}"),
        as_json({"error": {"message": told}}, 503),
        Script([f"<title>{told}</title>".encode()], 502, {"content-type": "text/html"}),
        Script([], 302, {"location": f"https://elsewhere/?key={KEY}"}),
        Script([told.encode()]),
        as_stream(f"event: error\ndata: {json.dumps({'error': {'message': told}})}\n\n".encode()),
        Script(raw=f"HTTP/1.1 200 {told}\r\nbroken {told}\r\n\r\n".encode()),
    ]
    upstream.otherwise = as_json({"models": []})  # who looks whether Ollama is there
    with gateway("--log-prompts", *flags, env={"THE_KEY": KEY}) as server:
        await asyncio.to_thread(server.ready)
        async with penstock.aio.Client(server.address) as client:
            for answer in answers:
                upstream.otherwise = answer
                for stream in (False, True):
                    with pytest.raises(penstock.PenstockError) as caught:
                        if stream:
                            async for _ in client.stream("Hi", model="up/m"):
                                pass
                        else:
                            await client.generate("Hi", model="up/m")
                    shown = f"{caught.value!r} {caught.value} {caught.value.metadata}"
                    assert KEY not in shown
                    assert KEY[-4:] not in shown
    assert KEY in str([request.headers for request in upstream.received])
    assert KEY not in json.dumps(server.log)
