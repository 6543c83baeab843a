"""Connections that are old give way to new ones, and no call notices."""

from __future__ import annotations

import asyncio
import time

import grpc
from penstock import v1
from penstock_server.config import ServerConfig
from penstock_server.providers import Call, Events

from tests.support.scripted import WORDS, ScriptedProvider, serving


class Peers(ScriptedProvider):
    """Remembers by which connections it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: set[str] = set()

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        self.peers.add(call.caller)
        async for event in super().stream(model, request, call):
            yield event


def config(age: float) -> ServerConfig:
    return ServerConfig.model_validate(
        {
            "listen": ["127.0.0.1:0"],
            "keepalive": {"max_connection_age": age},
            "shutdown": {"notice": 0, "drain": 1},
        }
    )


async def busy(age: float, seconds: float) -> set[str]:
    """Call again and again for a while, by one channel: the connections that were used."""
    provider = Peers()
    async with serving(provider, config=config(age)) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        begun = v1.StreamGenerateRequest(request=v1.GenerateRequest(model="test/slow", prompt="Hi"))
        slow = stub.StreamGenerate(begun)  # older than its connection may become
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            answer = await stub.Generate(v1.GenerateRequest(model="test/echo", prompt="Hi"))
            assert answer.message.parts[0].text == "".join(WORDS)
            await asyncio.sleep(0.01)
        provider.resume.set()
        text = "".join([event.part_delta.text async for event in slow])
        assert text == "".join(WORDS), "a running stream is not cut"
        assert await slow.code() is grpc.StatusCode.OK
    return provider.peers


async def test_old_connections_are_replaced() -> None:
    for_ever, aged = await asyncio.gather(busy(0, 3.0), busy(1.0, 3.0))
    assert len(for_ever) == 1
    assert len(aged) >= 2
