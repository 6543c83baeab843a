"""Stopping, in the right order: what callers see at every step."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock import v1
from penstock.errors import from_rpc_error
from penstock_server.app import Server
from penstock_server.config import ServerConfig
from penstock_server.listener import BindError

from tests.support.scripted import WORDS, ScriptedProvider


class OrderedProvider(ScriptedProvider):
    """Tells whether it was closed while a call still ran."""

    closed_last = False

    async def close(self) -> None:
        self.closed_last = self.closed == len(self.calls)


def config(**shutdown: float) -> ServerConfig:
    return ServerConfig.model_validate(
        {"listen": ["127.0.0.1:0"], "shutdown": {"notice": 0.0, "drain": 5.0, **shutdown}}
    )


async def slow_call(
    server: Server, provider: ScriptedProvider
) -> tuple[grpc.aio.Channel, asyncio.Task[str]]:
    """A stream that has begun and goes on when the provider is told to."""
    channel = grpc.aio.insecure_channel(server.addresses[0])
    request = v1.StreamGenerateRequest(request=v1.GenerateRequest(model="test/slow", prompt="Hi"))

    async def read() -> str:
        events = v1.GenerationServiceStub(channel).StreamGenerate(request)
        return "".join([event.part_delta.text async for event in events])

    task = asyncio.create_task(read())
    await provider.begun.wait()
    return channel, task


async def test_running_calls_finish_and_new_ones_are_refused() -> None:
    provider = OrderedProvider()
    server = Server(config(), [provider])
    await server.start()
    channel, running = await slow_call(server, provider)
    health = health_pb2_grpc.HealthStub(channel)
    stopping = asyncio.create_task(server.stop())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        while True:  # calls are still taken until the notice has passed
            request = v1.GenerateRequest(model="test/echo", prompt="Hi")
            await v1.GenerationServiceStub(channel).Generate(request)
    error = from_rpc_error(refused.value)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not stopping.done()
    provider.resume.set()
    assert await running == "".join(WORDS)
    await stopping
    assert provider.closed_last
    await channel.close()


async def test_during_the_notice_calls_are_still_taken() -> None:
    provider = ScriptedProvider()
    server = Server(config(notice=30.0), [provider])
    await server.start()
    stopping = asyncio.create_task(server.stop())
    async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        request = v1.GenerateRequest(model="test/echo", prompt="Hi")
        assert (await v1.GenerationServiceStub(channel).Generate(request)).message.parts
    server.hurry()  # a second signal
    async with asyncio.timeout(5):
        await stopping


async def test_what_does_not_finish_in_time_is_ended_with_a_status() -> None:
    provider = OrderedProvider()
    server = Server(config(drain=0.1), [provider])
    await server.start()
    channel, running = await slow_call(server, provider)
    await server.stop()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await running
    error = from_rpc_error(ended.value)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert provider.closed == 1
    assert provider.closed_last
    await channel.close()


async def test_an_address_in_use_is_an_error_that_says_so() -> None:
    first = Server(config(), [])
    await first.start()
    second = Server(config().model_copy(update={"listen": first.addresses}), [])
    with pytest.raises(BindError, match=f"cannot listen on {first.addresses[0]}"):
        await second.start()
    await second.stop()
    await first.stop()
