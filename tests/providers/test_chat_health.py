"""Health of HTTP providers, and one of them behind a whole server."""

from __future__ import annotations

import asyncio

import pytest
from penstock import v1
from penstock_server.providers import http_provider

from tests.providers.conftest import Connect
from tests.providers.upstream import Upstream, as_json, as_stream, chunks, completion, sse
from tests.support.scripted import serving


async def test_a_local_server_is_well_while_it_runs(
    upstream: Upstream, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_provider, "LOOK_AGAIN", 0.01)
    upstream.will(as_json({"object": "list", "data": []}))
    told: asyncio.Queue[bool] = asyncio.Queue()
    provider = connect("lmstudio")
    await provider.start(told.put_nowait)
    async with asyncio.timeout(10):
        assert await told.get()
        await upstream.stop()
        while await told.get():
            pass


async def test_a_hosted_server_is_not_asked(upstream: Upstream, connect: Connect) -> None:
    for kind in ("openai", "openai-compatible"):
        told: list[bool] = []
        await connect(kind, api_key="sk-1").start(told.append)
        assert told == [True]
    assert not upstream.received


async def test_through_a_whole_server(upstream: Upstream, connect: Connect) -> None:
    async with serving(connect()) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        request = v1.GenerateRequest(model="up/m", prompt="Hi")
        upstream.will(as_json(completion({"content": "Hello."})))
        whole = await stub.Generate(request)
        pieces = chunks([{"content": "Hel"}, {"content": "lo."}])
        upstream.will(as_stream(sse(*pieces)))
        call = stub.StreamGenerate(v1.StreamGenerateRequest(request=request))
        events = [event async for event in call]
    assert whole.message.parts[0].text == "Hello."
    assert events[-1].completed.message == whole.message
    assert whole.model == "up/m"
