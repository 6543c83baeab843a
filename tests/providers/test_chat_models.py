"""Which models there are, and their vectors."""

from __future__ import annotations

import asyncio

import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.providers import http_provider
from penstock_server.providers.openai.chat_provider import ChatProvider

from tests.providers.asking import CALL
from tests.providers.conftest import Connect
from tests.providers.upstream import Script, Upstream, as_json, as_page

# As OpenAI, Anthropic and Ollama list them.
LIST = {
    "object": "list",
    "data": [
        {"id": "b", "object": "model", "created": 1700000000, "owned_by": "openai"},
        {"id": "a", "type": "model", "display_name": "A", "created_at": "2025-02-19T00:00:00Z"},
        {"id": "org/c:latest", "object": "model", "created": -(10**30)},
        {"id": "d", "created_at": "yesterday"},
    ],
}


async def test_hosted_models(upstream: Upstream, connect: Connect) -> None:
    upstream.will(as_json(LIST))
    models = await connect("openai").list_models(CALL)
    assert upstream.received[0].method == "GET"
    assert upstream.received[0].path == "/v1/models"
    by_name = {model.name: model for model in models}
    assert by_name.keys() == {"up/b", "up/a", "up/org/c:latest", "up/d"}
    for model in models:
        assert model.provider == "up"
        assert list(model.capabilities) == [v1.CAPABILITY_GENERATE, v1.CAPABILITY_STREAM]
        assert model.capability_source == v1.CAPABILITY_SOURCE_UNSPECIFIED
        assert model.state == v1.MODEL_STATE_READY
    assert by_name["up/a"].display_name == "A"
    assert by_name["up/b"].create_time.seconds == 1700000000
    assert not by_name["up/d"].create_time.seconds


async def test_local_models(upstream: Upstream, connect: Connect) -> None:
    provider = connect("vllm")
    upstream.will(as_json(LIST))
    (model,) = [m for m in await provider.list_models(CALL) if m.name == "up/b"]
    assert model.state == v1.MODEL_STATE_UNSPECIFIED
    assert not model.HasField("create_time")  # they mean: when the file was changed
    upstream.will(as_json({"object": "list", "data": None}))
    assert await provider.list_models(CALL) == []


async def test_one_model(upstream: Upstream, connect: Connect) -> None:
    for asked in ("b", "org/c:latest"):
        upstream.will(as_json(LIST))
        assert (await connect("openai").get_model(asked, CALL)).name == f"up/{asked}"


async def test_no_such_model(upstream: Upstream, connect: Connect) -> None:
    for kind, hint in (("openai", ""), ("lmstudio", "`lms get`")):
        upstream.will(as_json(LIST))
        with pytest.raises(Failure) as caught:
            await connect(kind).get_model("nope", CALL)
        assert caught.value.reason_name == "MODEL_NOT_FOUND"
        assert caught.value.metadata == {"model": "up/nope", "provider": "up"}
        assert hint in caught.value.message


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_without_a_list_says_so(
    upstream: Upstream, provider: ChatProvider, status: int
) -> None:
    for ask in (provider.list_models(CALL), provider.get_model("m", CALL)):
        upstream.will(as_json({"detail": "Not Found"}, status))
        with pytest.raises(Failure) as caught:
            await ask
        assert caught.value.reason_name == "UNSUPPORTED_FEATURE"
        assert caught.value.metadata["feature"] == "ListModels"
        assert caught.value.metadata["upstream_status"] == str(status)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (as_json({"error": {"message": "no"}}, 401), "PROVIDER_AUTHENTICATION"),
        (as_json({"error": {"message": "no"}}, 500), "PROVIDER_UNAVAILABLE"),
        (as_json({"models": []}), "PROVIDER_PROTOCOL"),
        (as_json({"data": [{}]}), "PROVIDER_PROTOCOL"),
        (as_page("Log in"), "PROVIDER_PROTOCOL"),
    ],
)
async def test_a_list_that_cannot_be_had(
    upstream: Upstream, provider: ChatProvider, answer: Script, reason: str
) -> None:
    upstream.will(answer)
    with pytest.raises(Failure) as caught:
        await provider.list_models(CALL)
    assert caught.value.reason_name == reason
    assert caught.value.metadata["provider"] == "up"


async def test_a_list_takes_no_longer_than_its_limit(
    upstream: Upstream, provider: ChatProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_provider, "LISTING_TIMEOUT", 0.05)
    upstream.will(Script([asyncio.Event()]))
    with pytest.raises(Failure) as caught:
        await provider.list_models(CALL)
    assert caught.value.reason_name == "PROVIDER_TIMEOUT"
    assert "0.05 s" in caught.value.message


async def test_vectors(upstream: Upstream, provider: ChatProvider) -> None:
    vectors = [{"index": 1, "embedding": [0.5, 1]}, {"index": 0, "embedding": [0, -1.5]}]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    upstream.will(as_json({"object": "list", "data": vectors, "usage": usage}))
    request = v1.EmbedRequest(model="up/e", inputs=["a", "b"], dimensions=2)
    request.provider_options["truncate"] = True
    answer = await provider.embed("e", request, CALL)
    assert upstream.received[0].path == "/v1/embeddings"
    assert upstream.received[0].json == {
        "model": "e",
        "input": ["a", "b"],
        "dimensions": 2,
        "truncate": True,
    }
    assert answer.model == "up/e"
    assert [list(vector.values) for vector in answer.embeddings] == [[0, -1.5], [0.5, 1]]
    assert answer.usage == v1.Usage(input_tokens=4)


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1]}],
        [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}],
        [{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": "AACAPw=="}],
    ],
)
async def test_vectors_that_do_not_fit(
    upstream: Upstream, provider: ChatProvider, data: object
) -> None:
    upstream.will(as_json({"data": data}))
    with pytest.raises(Failure) as caught:
        await provider.embed("e", v1.EmbedRequest(inputs=["a", "b"]), CALL)
    assert caught.value.reason_name == "PROVIDER_PROTOCOL"
    assert caught.value.metadata["model"] == "up/e"


async def test_a_server_without_vectors(connect: Connect) -> None:
    provider = connect("xai")
    assert not provider.embeds
    assert connect("openai").embeds
    with pytest.raises(Failure) as caught:
        await provider.embed("e", v1.EmbedRequest(inputs=["a"]), CALL)
    assert caught.value.reason_name == "UNSUPPORTED_FEATURE"


async def test_closing_without_ever_asking(connect: Connect) -> None:
    await connect().close()


async def test_hosted_and_local_are_healthy_from_the_start(
    provider: ChatProvider,
) -> None:
    told: list[bool] = []
    await provider.start(told.append)
    assert told == [True]
