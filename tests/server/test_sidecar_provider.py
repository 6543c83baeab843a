"""Forwarding, pooling, and the truth about sidecars that are not there. Sidecars here are real
servers whose engine a test scripts; the real engine has its own tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

import grpc
import pytest
from penstock import v1
from penstock.errors import PenstockError, from_rpc_error
from penstock_server.config import ServerConfig
from penstock_server.providers.sidecar import SIDECAR_PROVIDER, SidecarProvider

from tests.support.processes import until
from tests.support.scripted import WORDS, ScriptedProvider, serving


def quick(address: str) -> ServerConfig:
    return ServerConfig.model_validate({"listen": [address], "shutdown": {"notice": 0, "drain": 0}})


@pytest.fixture(autouse=True, params=["linked", "call by call"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """How gateway and sidecars talk. The second is for sidecars that know of no links."""
    token = _linked.set(request.param == "linked")
    yield
    _linked.reset(token)


_linked: ContextVar[bool] = ContextVar("linked")


@asynccontextmanager
async def sidecar(socket: Path) -> AsyncIterator[tuple[ScriptedProvider, str]]:
    provider = ScriptedProvider(SIDECAR_PROVIDER)
    config = quick(f"unix:{socket}")
    async with serving(provider, config=config, linked=_linked.get()) as (server, _):
        yield provider, server.addresses[0]


@asynccontextmanager
async def gateway(*addresses: str, ready_timeout: float = 5.0) -> AsyncIterator[grpc.aio.Channel]:
    forwarder = SidecarProvider("far", addresses, ready_timeout=ready_timeout)
    async with serving(forwarder) as (_, channel):
        await linked(forwarder)
        yield channel


async def linked(forwarder: SidecarProvider) -> None:
    """Wait until what can be linked is."""
    there = [m for m in forwarder.members if os.path.exists(m.address.removeprefix("unix:"))]  # noqa: ASYNC240, PTH110 # no disk
    await until(lambda: all(m.connected and m.linked == _linked.get() for m in there))


async def unary(channel: grpc.aio.Channel, model: str = "far/echo") -> v1.GenerateResponse:
    request = v1.GenerateRequest(model=model, prompt="Hi")
    return await v1.GenerationServiceStub(channel).Generate(
        request, metadata=(("x-request-id", "r-7"), ("x-penstock-caller", "me")), timeout=20
    )


async def stream(
    channel: grpc.aio.Channel, model: str = "far/echo"
) -> list[v1.StreamGenerateResponse]:
    request = v1.StreamGenerateRequest(request=v1.GenerateRequest(model=model, prompt="Hi"))
    return [e async for e in v1.GenerationServiceStub(channel).StreamGenerate(request, timeout=20)]


async def failure(call: object) -> PenstockError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return from_rpc_error(caught.value)


async def test_everything_is_forwarded_under_our_name(tmp_path: Path) -> None:
    async with sidecar(tmp_path / "a") as (provider, address), gateway(address) as channel:
        whole, events = await unary(channel), await stream(channel)
        models = v1.ModelServiceStub(channel)
        listed = await models.ListModels(v1.ListModelsRequest())
        got = await models.GetModel(v1.GetModelRequest(model="far/echo"))
        loaded = [s async for s in models.LoadModel(v1.LoadModelRequest(model="far/echo"))]
        assert provider.calls[0].request_id == "r-7"
        assert provider.calls[0].caller == "me"
        assert provider.calls[1].caller.startswith("ipv4:"), "the gateway's caller, not the gateway"
        assert provider.calls[0].remaining() is not None
    assert whole.model == events[0].started.model == events[-1].completed.model == "far/echo"
    assert whole.message.parts[0].text == "".join(WORDS)
    assert [(m.name, m.provider) for m in listed.models] == [("far/echo", "far")]
    assert got.model.name == "far/echo"
    assert [step.progress for step in loaded] == [0.5, 1.0]


async def test_a_sidecars_failures_pass_through(tmp_path: Path) -> None:
    async with sidecar(tmp_path / "a") as (_, address), gateway(address) as channel:
        for error in (
            await failure(unary(channel, "far/fail")),
            await failure(stream(channel, "far/fail")),
        ):
            assert (error.reason, error.retry_delay) == ("PROVIDER_RATE_LIMITED", 1.5)
            assert (error.metadata["model"], error.metadata["provider"]) == ("far/fail", "far")
        broken = await failure(stream(channel, "far/break"))
        models = v1.ModelServiceStub(channel)
        unload = await failure(models.UnloadModel(v1.UnloadModelRequest(model="far/echo")))
        embedding = v1.EmbeddingServiceStub(channel)
        embed = await failure(embedding.Embed(v1.EmbedRequest(model="far/echo", inputs=["a"])))
    assert broken.reason == "PROVIDER_PROTOCOL"
    assert unload.reason == embed.reason == "UNSUPPORTED_FEATURE"


@pytest.mark.parametrize("how", ["cancel", "disconnect", "deadline"])
@pytest.mark.parametrize("flavour", ["unary", "stream"])
async def test_a_caller_who_goes_is_gone_in_the_sidecar_too(
    tmp_path: Path, how: str, flavour: str
) -> None:
    request = v1.GenerateRequest(model="far/slow", prompt="Hi")
    forwarder = SidecarProvider("far", [f"unix:{tmp_path / 'a'}"])
    async with sidecar(tmp_path / "a") as (provider, _), serving(forwarder) as (server, _):
        await linked(forwarder)
        channel = grpc.aio.insecure_channel(server.addresses[0])
        stub, timeout = v1.GenerationServiceStub(channel), 0.5 if how == "deadline" else None
        call = (
            stub.Generate(request, timeout=timeout)
            if flavour == "unary"
            else stub.StreamGenerate(v1.StreamGenerateRequest(request=request), timeout=timeout)
        )
        await provider.begun.wait()
        assert not provider.ended.is_set()
        if how == "cancel":
            call.cancel()
        elif how == "disconnect":
            await channel.close(None)
        async with asyncio.timeout(5):
            await provider.ended.wait()
        await channel.close()


async def test_calls_go_to_the_member_with_the_fewest(tmp_path: Path) -> None:
    async with (
        sidecar(tmp_path / "a") as (one, first),
        sidecar(tmp_path / "b") as (two, second),
        gateway(first, second) as channel,
    ):
        tasks = []
        for _ in range(6):
            tasks.append(asyncio.create_task(unary(channel, "far/slow")))
            await until(lambda: len(one.calls) + len(two.calls) == len(tasks))
        assert abs(len(one.calls) - len(two.calls)) <= 2  # the second may be seen a moment later
        one.resume.set()
        two.resume.set()
        await asyncio.gather(*tasks)


async def test_a_member_that_is_not_there_harms_no_call(tmp_path: Path) -> None:
    nobody = f"unix:{tmp_path / 'nobody'}"
    async with sidecar(tmp_path / "a") as (_, first), gateway(nobody, first) as channel:
        for _ in range(4):
            assert (await unary(channel)).model == "far/echo"
            assert (await stream(channel))[-1].completed.model == "far/echo"


async def test_a_member_that_goes_takes_no_more_calls_and_comes_back(tmp_path: Path) -> None:
    second = f"unix:{tmp_path / 'b'}"
    async with sidecar(tmp_path / "a") as (one, first), gateway(first, second) as channel:
        for _ in range(2):
            async with sidecar(tmp_path / "b") as (two, _):

                async def both_used(one: ScriptedProvider, two: ScriptedProvider) -> None:
                    while not (one.calls and two.calls):
                        await asyncio.gather(*(unary(channel) for _ in range(4)))

                async with asyncio.timeout(10):
                    await both_used(one, two)
            one.calls.clear()
            for _ in range(4):
                assert (await unary(channel)).model == "far/echo"
            assert len(one.calls) == 4


async def test_where_nobody_is_there_the_message_says_so(tmp_path: Path) -> None:
    async with gateway(f"unix:{tmp_path / 'nobody'}", ready_timeout=0.2) as channel:
        for error in (await failure(unary(channel)), await failure(stream(channel))):
            assert error.code is grpc.StatusCode.UNAVAILABLE
            assert error.reason == "SIDECAR_UNAVAILABLE"
            assert "nobody" in error.message
            assert error.retry_delay is not None
        listed = await v1.ModelServiceStub(channel).ListModels(v1.ListModelsRequest())
    assert listed.failures[0].provider == "far"


async def test_a_call_waits_for_a_sidecar_that_is_starting(tmp_path: Path) -> None:
    async with gateway(f"unix:{tmp_path / 'a'}") as channel:
        early = asyncio.create_task(unary(channel))
        async with sidecar(tmp_path / "a"):
            assert (await early).model == "far/echo"
