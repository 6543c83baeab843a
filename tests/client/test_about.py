"""What is to be known of a model beside its answers, in both flavours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from penstock import v1

from tests.client.faces import Face, MakeLLM, until

if TYPE_CHECKING:
    from tests.client.conftest import Fail, Server


async def test_capabilities(llm: Face, server: Server) -> None:
    async def able(request: Any, context: Any) -> v1.GetModelResponse:
        every = [one for one in v1.Capability.values() if one]
        return v1.GetModelResponse(model=v1.Model(capabilities=every))

    assert await llm.get_capabilities() == ["chat", "streaming"]
    assert await llm.get_media_types() == ["text/*"]
    server.get_model = able
    assert await llm.get_capabilities() == [
        *("chat", "streaming", "tools", "vision", "audio", "documents", "thinking"),
        *("json_mode", "structured_output", "logprobs", "embeddings"),
    ]
    assert await llm.get_media_types() == ["text/*", "image/*", "audio/*", "application/pdf"]
    assert {call.request.model for call in server.calls} == {"test/model"}


async def test_capabilities_of_no_model(llm: Face, server: Server, fail: Fail) -> None:
    async def get(request: Any, context: Any) -> v1.GetModelResponse:
        await fail(context, grpc.StatusCode.NOT_FOUND, "no such model")
        raise AssertionError

    server.get_model = get
    with pytest.raises(penstock.ModelNotFoundError, match="no such model"):
        await llm.get_capabilities()


async def listed(request: Any, context: Any) -> v1.ListModelsResponse:
    names = ["test/b", "test/test/a", "test/a"]
    return v1.ListModelsResponse(models=[v1.Model(name=name) for name in names])


async def test_available_models(llm: Face, server: Server) -> None:
    server.list_models = listed

    assert await llm.list_available_models() == ["a", "b", "test/a"]
    assert server.calls[0].request.provider == "test"


FAILING = [
    (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, penstock.ProviderUnavailableError),
    (v1.ERROR_REASON_PROVIDER_AUTHENTICATION, penstock.AuthenticationError),
    (v1.ERROR_REASON_PROVIDER_RATE_LIMITED, penstock.RateLimitError),
    (999, penstock.ProviderAPIError),  # of a newer server
]


@pytest.mark.parametrize(("reason", "kind"), FAILING)
async def test_models_of_a_failing_provider(
    llm: Face, server: Server, reason: Any, kind: type[penstock.PenstockError]
) -> None:
    async def failing(request: Any, context: Any) -> v1.ListModelsResponse:
        failure = v1.ProviderFailure(provider="test", reason=reason, message="not reachable")
        failure.retry_delay.FromMilliseconds(1500)
        return v1.ListModelsResponse(failures=[failure])

    server.list_models = failing
    with pytest.raises(kind, match="not reachable") as caught:
        await llm.list_available_models()
    assert caught.value.provider == "test"
    assert caught.value.retry_delay == 1.5

    health = await llm.health()
    assert health["status"] == "unhealthy"
    assert health["error"] == "not reachable"
    assert health["models"] == []


async def test_health(llm: Face, server: Server) -> None:
    server.list_models = listed
    health = await llm.health()

    latency = health.pop("latency_ms")
    assert 0 < latency < 5000
    assert health == {
        "status": "healthy",
        "provider": "test",
        "models": ["a", "b", "test/a"],
        "model_count": 3,
        "error": None,
    }
    assert server.calls[0].time_remaining == pytest.approx(5, abs=0.5)


async def test_health_without_a_server(make_llm: MakeLLM) -> None:
    health = await make_llm(target="127.0.0.1:1").health(timeout=3)

    assert health["status"] == "unhealthy"
    assert "is a server running at 127.0.0.1:1?" in health["error"]
    assert (health["models"], health["model_count"]) == (None, 0)


async def test_health_of_a_server_that_hangs(llm: Face, server: Server) -> None:
    async def hang(request: Any, context: Any) -> v1.ListModelsResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.list_models = hang
    health = await llm.health(timeout=0.1)

    assert health["status"] == "unhealthy"
    assert "DEADLINE_EXCEEDED" in health["error"]
    await server.was_cut_off()


async def test_embed(llm: Face, server: Server) -> None:
    async def embed(request: v1.EmbedRequest, context: Any) -> v1.EmbedResponse:
        vectors = [v1.Embedding(values=[len(text), 0.5]) for text in request.inputs]
        usage = v1.Usage(input_tokens=3)
        return v1.EmbedResponse(model="test/embedder", embeddings=vectors, usage=usage)

    server.embed = embed
    found = await llm.embed(["a", "bcd"], dimensions=2)

    assert found == {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": [1, 0.5], "index": 0},
            {"object": "embedding", "embedding": [3, 0.5], "index": 1},
        ],
        "model": "test/embedder",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert server.calls[0].request.dimensions == 2
    assert len((await llm.embed("one"))["data"]) == 1


async def test_embedding_raises(llm: Face, server: Server, fail: Fail) -> None:
    async def embed(request: Any, context: Any) -> v1.EmbedResponse:
        await fail(context, grpc.StatusCode.INTERNAL, "broken")
        raise AssertionError

    server.embed = embed
    with pytest.raises(penstock.InternalError):
        await llm.embed("one")


async def test_loading_and_unloading(llm: Face, server: Server) -> None:
    steps: list[tuple[float, str]] = []
    await llm.load_model(on_progress=lambda progress, stage: steps.append((progress, stage)))
    await llm.load_model("other")
    await llm.unload_model()
    await llm.unload_model("other")

    assert steps == [(0.5, "reading weights"), (1, "ready")]
    assert [(call.method, call.request.model) for call in server.calls] == [
        ("load_model", "test/model"),
        ("load_model", "test/other"),
        ("unload_model", "test/model"),
        ("unload_model", "test/other"),
    ]


async def test_a_failure_while_loading(llm: Face, server: Server, fail: Fail) -> None:
    async def load(request: Any, context: Any) -> Any:
        yield v1.LoadModelResponse(progress=0.5, stage="reading weights")
        await fail(context, grpc.StatusCode.FAILED_PRECONDITION, "no memory")

    server.load_model = load
    steps: list[float] = []
    with pytest.raises(penstock.PenstockError, match="no memory"):
        await llm.load_model(on_progress=lambda progress, _: steps.append(progress))
    assert steps == [0.5]


async def test_progress_that_raises_cancels_loading(llm: Face, server: Server) -> None:
    async def load(request: Any, context: Any) -> Any:
        yield v1.LoadModelResponse(progress=0.5, stage="reading weights")
        await asyncio.Event().wait()

    def stop(progress: float, stage: str) -> None:
        raise ZeroDivisionError

    server.load_model = load
    with pytest.raises(ZeroDivisionError):
        await llm.load_model(on_progress=stop)
    await server.was_cut_off()
    await until(lambda: server.calls)
