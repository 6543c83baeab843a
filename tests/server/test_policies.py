"""What callers may do: models, their management, other services; with a name and without one."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from penstock import v1

from tests.server.knocking import (
    REFUSED,
    TOKEN,
    Metadata,
    bearer,
    door,
    each_way,
    outcome,
    unary,
)
from tests.support.issuer import Issuer
from tests.support.scripted import ScriptedProvider, serving


@each_way
async def test_a_policy_bounds_what_may_be_asked(ask: Any) -> None:
    aliases = {"fast": "test/other", "slow": "test/other"}
    provider = ScriptedProvider()
    async with serving(provider, door=door(), aliases=aliases) as (_, channel):
        mine = bearer("narrow")
        said = await ask(channel, mine, "test/other")
        assert said.startswith("PERMISSION_DENIED CALLER_FORBIDDEN: narrow may not use")
        assert "test/echo, fast" in said
        assert (await ask(channel, mine, "slow")).startswith("PERMISSION_DENIED")
        assert await ask(channel, mine, "fast") == "OK"
        assert await ask(channel, mine, "test/echo") == "OK"
        assert await ask(channel, mine, "test/echo") == "OK"
        assert "RESOURCE_EXHAUSTED LIMIT_EXCEEDED: the limit of caller/narrow" in await ask(
            channel, mine, "test/echo"
        )
        assert await ask(channel, bearer(TOKEN), "test/other") == "OK", "others have their own"
        models = v1.ModelServiceStub(channel)
        listed = await models.ListModels(v1.ListModelsRequest(), metadata=mine)
        assert [model.name for model in listed.models] == ["test/echo"]
        hidden = models.GetModel(v1.GetModelRequest(model="test/other"), metadata=mine)
        assert "CALLER_FORBIDDEN" in await outcome(hidden)


@pytest.mark.parametrize("method", ["LoadModel", "PullModel", "UnloadModel"])
async def test_models_are_managed_by_those_who_may(issuer: Issuer, method: str) -> None:
    settings = {"policy_claim": "role"}
    async with serving(ScriptedProvider(), door=door(issuer, jwt=settings)) as (_, channel):
        stub = v1.ModelServiceStub(channel)
        request = getattr(v1, f"{method}Request")(model="test/echo")

        async def ask(metadata: Metadata) -> str:
            call = getattr(stub, method)(request, metadata=metadata)
            if method == "UnloadModel":
                return await outcome(call)

            async def read() -> None:
                async for _ in call:
                    pass

            return await outcome(read())

        assert f"may not call {method}" in await ask(bearer(TOKEN))
        assert "PERMISSION_DENIED" in await ask(bearer(issuer.token()))
        said = await ask(bearer(issuer.token(role="boss")))
        assert said == "OK" or "UNSUPPORTED_FEATURE" in said
        assert "names a policy that is not known" in await ask(bearer(issuer.token(role="king")))


@pytest.mark.parametrize("shown", [[], bearer(TOKEN), bearer("wrong")])
async def test_other_services_have_policies_of_their_own(shown: Metadata) -> None:
    async def all_of(channel: grpc.aio.Channel) -> dict[str, str]:
        health = health_pb2_grpc.HealthStub(channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        channelz = channelz_pb2_grpc.ChannelzStub(channel)

        async def reflect() -> None:
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for _ in reflection.ServerReflectionInfo(iter([request]), metadata=shown):
                return

        calls = {
            "health": health.Check(health_pb2.HealthCheckRequest(), metadata=shown),
            "reflection": reflect(),
            "channelz": channelz.GetServers(channelz_pb2.GetServersRequest(), metadata=shown),
        }
        return {name: (await outcome(call)).split(":")[0] for name, call in calls.items()}

    refused = REFUSED.rstrip(": ")
    good = shown == bearer(TOKEN)
    async with serving(ScriptedProvider(), door=door()) as (_, channel):
        seen = "OK" if good else refused
        assert await all_of(channel) == {"health": "OK", "reflection": seen, "channelz": seen}
    off = door(health="identified", reflection="open", channelz="off")
    async with serving(ScriptedProvider(), door=off) as (_, channel):
        assert await all_of(channel) == {
            "health": "OK" if good else refused,
            "reflection": "OK",
            "channelz": "FAILED_PRECONDITION UNSUPPORTED_FEATURE",
        }


async def test_strangers_may_have_a_policy_and_share_its_limits() -> None:
    policies = {"guests": {"models": "test/echo", "limits": {"requests": "2/m"}}}
    watch = door(policies=policies, anonymous="guests")
    async with serving(ScriptedProvider(), door=watch) as (server, channel):
        assert await unary(channel, []) == "OK"
        async with grpc.aio.insecure_channel(server.addresses[0]) as another:
            assert await unary(another, [("x-penstock-caller", "me")]) == "OK"
        assert "the limit of caller/anonymous" in await unary(channel, [])
        assert "PERMISSION_DENIED" in await unary(channel, [], "test/other")
        assert (await unary(channel, bearer("wrong"))).startswith(REFUSED), "wrong is not nothing"
        assert await unary(channel, bearer(TOKEN), "test/other") == "OK"
