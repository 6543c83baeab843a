"""Health says what is true, of the server, of each service and of each provider."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from penstock import v1

from tests.support.scripted import ScriptedProvider, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GENERATION = "penstock.v1.GenerationService"
MODELS = "penstock.v1.ModelService"
EMBEDDING = "penstock.v1.EmbeddingService"


class EmbeddingProvider(ScriptedProvider):
    async def embed(self, model: str, request: v1.EmbedRequest, call: object) -> v1.EmbedResponse:
        return v1.EmbedResponse(embeddings=[v1.Embedding(values=[1.0]) for _ in request.inputs])


async def watch_until(channel: grpc.aio.Channel, service: str, status: int) -> None:
    watching = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=service), timeout=10
    )
    async for answer in watching:
        if answer.status == status:
            watching.cancel()
            return


async def test_health_moves_with_the_providers() -> None:
    one, two = ScriptedProvider("one"), EmbeddingProvider("two")
    async with serving(one, two) as (server, channel):
        for name in ("", GENERATION, MODELS, EMBEDDING, "provider/one", "provider/two"):
            await watch_until(channel, name, SERVING)
        two.on_health(False)
        await watch_until(channel, "provider/two", NOT_SERVING)
        await watch_until(channel, EMBEDDING, NOT_SERVING)
        await watch_until(channel, "", SERVING)  # the other one still answers
        one.on_health(False)
        await watch_until(channel, "", NOT_SERVING)
        await watch_until(channel, GENERATION, NOT_SERVING)
        await watch_until(channel, MODELS, SERVING)
        one.on_health(True)
        await watch_until(channel, "", SERVING)
        assert list(server.health.healthy()) == ["one"]


async def test_unknown_names_are_unknown() -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        request = health_pb2.HealthCheckRequest(service="provider/none")
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health_pb2_grpc.HealthStub(channel).Check(request)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_and_describes_the_services() -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=GENERATION),
        ]
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        listed, described = [answer async for answer in reflect(iter(asked))]
    names = {service.name for service in listed.list_services_response.service}
    assert {GENERATION, MODELS, EMBEDDING, "grpc.health.v1.Health"} <= names
    file = FileDescriptorProto.FromString(
        described.file_descriptor_response.file_descriptor_proto[0]
    )
    assert file.name == "penstock/v1/generation_service.proto"


async def test_channelz_shows_the_server() -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        stub = channelz_pb2_grpc.ChannelzStub(channel)
        servers = await stub.GetServers(channelz_pb2.GetServersRequest())
    assert servers.server
