"""A client that pings through a long silence keeps its connection, if the server lets it."""

from __future__ import annotations

import asyncio

import grpc
from penstock import v1
from penstock_server.config import ServerConfig

from tests.support.scripted import WORDS, ScriptedProvider, serving

# gRPC sends no more than a ping a second, and forgives two that come too early.
SILENCE = 5.0


async def silent_stream(min_client_interval: float) -> str:
    """What a stream says that is silent for a while, on a channel that pings."""
    settings = ServerConfig.model_validate(
        {
            "listen": ["127.0.0.1:0"],
            "shutdown": {"notice": 0},
            "keepalive": {"min_client_interval": min_client_interval},
        }
    )
    provider = ScriptedProvider()
    pinging = [
        ("grpc.keepalive_time_ms", 500),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with (
        serving(provider, config=settings) as (server, _),
        grpc.aio.insecure_channel(server.addresses[0], options=pinging) as channel,
    ):
        stub = v1.GenerationServiceStub(channel)
        request = v1.GenerateRequest(model="test/slow", prompt="Hi")
        events = stub.StreamGenerate(v1.StreamGenerateRequest(request=request))
        asyncio.get_running_loop().call_later(SILENCE, provider.resume.set)
        return "".join([event.part_delta.text async for event in events])


async def test_pings_survive_a_silence_where_they_are_allowed() -> None:
    allowed, forbidden = await asyncio.gather(
        silent_stream(0.1), silent_stream(60), return_exceptions=True
    )
    assert allowed == "".join(WORDS)
    # What would happen otherwise, so that this test is known to see it.
    assert isinstance(forbidden, grpc.aio.AioRpcError)
    assert "Too many pings" in str(forbidden.details())
