"""Callers who do not read are ended, those who read slowly are not."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from penstock import v1
from penstock_server.config import ServerConfig
from penstock_server.providers import Call, Events
from penstock_server.providers.assembler import Assembler

from tests.support.processes import until
from tests.support.scripted import ScriptedProvider, serving

PIECE = "x" * 65_536


class Flood(ScriptedProvider):
    """Answers without end, as fast as it is read."""

    told = 0

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        assembler = Assembler("answer-1", self.full_name(model), call.arrived)
        try:
            yield assembler.started()
            while True:
                for event in assembler.add("text", PIECE):
                    yield event
                self.told += 1
                await asyncio.sleep(0)
        finally:
            self.ended.set()


def config(unread_timeout: float) -> ServerConfig:
    limits = {"unread_timeout": unread_timeout}
    return ServerConfig.model_validate(
        {"listen": ["127.0.0.1:0"], "limits": limits, "shutdown": {"notice": 0, "drain": 0}}
    )


REQUEST = v1.StreamGenerateRequest(request=v1.GenerateRequest(model="test/any", prompt="Hi"))


async def test_a_stream_that_nobody_reads_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="penstock")
    provider = Flood()
    async with serving(provider, config=config(0.5)) as (server, channel):
        call = v1.GenerationServiceStub(channel).StreamGenerate(REQUEST)
        await until(provider.ended.is_set)
        told = provider.told
        assert server.gate.running == 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert "limits.unread_timeout" in str(caught.value.details())
        assert provider.told == told < 1000, "back-pressure held it before that"
    (line,) = (r for r in caplog.records if r.name == "penstock.calls")
    fields = line.fields  # type: ignore[attr-defined]
    assert fields["code"] == "CANCELLED"
    assert "took no message for 0.5 s" in fields["error"]


async def test_a_slow_reader_is_not_ended() -> None:
    provider = Flood()
    # Otherwise the client's gRPC takes megabytes at a time, and asks for more when they are read.
    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    async with (
        serving(provider, config=config(1.0)) as (server, _),
        grpc.aio.insecure_channel(server.addresses[0], options=small) as channel,
    ):
        call = v1.GenerationServiceStub(channel).StreamGenerate(REQUEST)
        for _ in range(30):  # three seconds and more, of which most are spent waiting to be read
            assert await call.read() is not grpc.aio.EOF
            await asyncio.sleep(0.1)
        assert not provider.ended.is_set()
        call.cancel()
        await until(provider.ended.is_set)


async def test_for_ever_where_the_configuration_says_so() -> None:
    provider = Flood()
    async with serving(provider, config=config(0)) as (_, channel):
        call = v1.GenerationServiceStub(channel).StreamGenerate(REQUEST)
        told = -1
        while provider.told != told:  # until back-pressure holds it
            told = provider.told
            await asyncio.sleep(0.3)
        assert told > 0
        assert not provider.ended.is_set()
        call.cancel()
        await until(provider.ended.is_set)
