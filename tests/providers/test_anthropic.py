"""Anthropic: its models, what is refused, and how requests to the clouds are signed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.providers.anthropic.clients import (
    anthropic_credentials,
    bedrock_credentials,
    vertex_credentials,
)
from penstock_server.providers.anthropic.models import traits
from penstock_server.providers.anthropic.provider import AnthropicProvider

from tests.providers.asking import CALL, question
from tests.providers.bench import root
from tests.providers.upstream import Script, Upstream, as_json, serving
from tests.providers.vendors.anthropic import HELLO, make, make_bedrock, make_vertex, whole

DESCRIBED = {
    "type": "model",
    "id": "claude-sonnet-5",
    "display_name": "Claude Sonnet 5",
    "created_at": "2026-02-19T00:00:00Z",
    "max_input_tokens": 1000000,
    "max_tokens": 128000,
    "capabilities": {
        "image_input": {"supported": True},
        "pdf_input": {"supported": False},
        "thinking": {"supported": True, "types": {}},
        "structured_outputs": {"supported": True},
    },
}
BARE = {"type": "model", "id": "claude-3-haiku-20240307", "display_name": "Claude Haiku 3"}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as running:
        yield running


@pytest.fixture
async def provider(upstream: Upstream) -> AsyncIterator[AnthropicProvider]:
    made = make("up", root(upstream))
    yield made
    await made.close()


async def test_models_of_all_pages(upstream: Upstream, provider: AnthropicProvider) -> None:
    upstream.will(as_json({"data": [DESCRIBED], "has_more": True, "last_id": "claude-sonnet-5"}))
    upstream.will(as_json({"data": [BARE], "has_more": False}))
    new, old = await provider.list_models(CALL)
    assert [r.path for r in upstream.received] == [
        "/v1/models?limit=1000",
        "/v1/models?limit=1000&after_id=claude-sonnet-5",
    ]
    assert new.capability_source == v1.CAPABILITY_SOURCE_PROVIDER
    assert (new.context_length, new.max_output_tokens) == (1000000, 128000)
    assert v1.CAPABILITY_THINKING in new.capabilities
    assert v1.CAPABILITY_DOCUMENT_INPUT not in new.capabilities
    assert new.create_time.ToJsonString() == "2026-02-19T00:00:00Z"
    assert old.capability_source == v1.CAPABILITY_SOURCE_TABLE
    assert old.max_output_tokens == 4096
    assert v1.CAPABILITY_THINKING not in old.capabilities


async def test_one_model(upstream: Upstream, provider: AnthropicProvider) -> None:
    upstream.will(as_json(DESCRIBED))
    assert (await provider.get_model("claude-sonnet-5", CALL)).display_name == "Claude Sonnet 5"
    assert upstream.received[0].path == "/v1/models/claude-sonnet-5"
    upstream.will(as_json({"type": "error", "error": {"type": "not_found_error"}}, 404))
    with pytest.raises(Failure) as caught:
        await provider.get_model("nope", CALL)
    assert caught.value.reason_name == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("name", "limit", "structured", "adaptive"),
    [
        ("claude-sonnet-5", 64_000, True, True),
        ("claude-something-of-tomorrow", 64_000, True, True),
        ("claude-sonnet-4-5-20250929", 64_000, True, False),
        ("claude-opus-4-1-20250805", 32_000, True, False),
        ("claude-opus-4-20250514", 32_000, False, False),
        ("claude-sonnet-4@20250514", 64_000, False, False),
        ("claude-opus-4-8", 64_000, True, True),
        ("eu.anthropic.claude-3-5-sonnet-20241022-v2:0", 8_192, False, False),
        ("claude-3-haiku-20240307", 4_096, False, False),
    ],
)
def test_what_is_known_of_models(name: str, limit: int, structured: bool, adaptive: bool) -> None:
    known = traits(name)
    assert (known.max_output_tokens, known.structured, known.adaptive) == (
        limit,
        structured,
        adaptive,
    )


async def test_an_older_model_is_given_a_budget_and_a_tool(
    upstream: Upstream, provider: AnthropicProvider
) -> None:
    upstream.otherwise = Script([whole(HELLO)], 200, {"content-type": "application/json"})
    thinking = question(thinking=v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_HIGH))
    await provider.generate("claude-sonnet-4-5", thinking, CALL)
    assert upstream.received[0].json["thinking"] == {"type": "enabled", "budget_tokens": 16384}
    assert "output_config" not in upstream.received[0].json
    wanted = question()
    wanted.response_format.json_schema.name = "number"
    wanted.response_format.json_schema.schema = '{"type":"object"}'
    await provider.generate("claude-sonnet-4-0", wanted, CALL)
    assert upstream.received[1].json["tool_choice"]["name"] == "number"
    wanted.tools.add(name="f")
    with pytest.raises(Failure) as caught:
        await provider.generate("claude-sonnet-4-0", wanted, CALL)
    assert caught.value.reason_name == "UNSUPPORTED_FEATURE"


async def test_betas(upstream: Upstream, provider: AnthropicProvider) -> None:
    upstream.will(Script([whole(HELLO)]))
    request = question()
    request.provider_options.update({"betas": ["one-2026-01-01", "two-2026-01-01"]})
    part = v1.Part(document=v1.Document(file_id="file_1"))
    request.messages.append(v1.Message(role=v1.ROLE_USER, parts=[part]))
    await provider.generate("claude-sonnet-5", request, CALL)
    (received,) = upstream.received
    betas = "files-api-2025-04-14,one-2026-01-01,two-2026-01-01"
    assert received.headers["anthropic-beta"] == betas
    assert "betas" not in received.json
    assert received.headers["anthropic-version"] >= "2023-06-01"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sampling": v1.Sampling(seed=1)}, "sampling.seed"),
        ({"sampling": v1.Sampling(min_p=0.5)}, "sampling.min_p"),
        ({"sampling": v1.Sampling(presence_penalty=1)}, "sampling.presence_penalty"),
        ({"sampling": v1.Sampling(logit_bias={1: 1})}, "sampling.logit_bias"),
        ({"logprobs": v1.LogprobsOptions()}, "logprobs"),
    ],
)
async def test_what_it_has_not_is_refused(
    provider: AnthropicProvider, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(Failure) as caught:
        await provider.generate("claude-sonnet-5", question(**fields), CALL)
    assert caught.value.metadata["feature"] == named


@pytest.mark.parametrize("stream", [False, True])
async def test_bedrock_signs_and_has_the_model_in_the_path(
    upstream: Upstream, stream: bool
) -> None:
    provider = make_bedrock("up", root(upstream))
    upstream.will(as_json({"message": "no"}, 403))
    with pytest.raises(Failure) as caught:
        if stream:
            async for _ in provider.stream("eu.anthropic.claude-x-v1:0", question(), CALL):
                pass
        else:
            await provider.generate("eu.anthropic.claude-x-v1:0", question(), CALL)
    await provider.close()
    (received,) = upstream.received
    end = "invoke-with-response-stream" if stream else "invoke"
    assert received.path == f"/model/eu.anthropic.claude-x-v1:0/{end}"
    assert received.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-central-1/bedrock/aws4_request" in received.headers["authorization"]
    assert "model" not in received.json
    assert received.json["anthropic_version"]
    assert "check the AWS credentials" in caught.value.message


async def test_vertex_has_project_region_and_model_in_the_path(upstream: Upstream) -> None:
    provider = make_vertex("up", root(upstream))
    upstream.will(Script([whole(HELLO)]))
    await provider.generate("claude-sonnet-5", question(), CALL)
    (received,) = upstream.received
    assert received.path.endswith(
        "/projects/example/locations/europe-west1/publishers/anthropic/models/"
        "claude-sonnet-5:rawPredict"
    )
    assert received.headers["authorization"] == "Bearer ya29.very-secret"
    with pytest.raises(Failure) as caught:
        await provider.list_models(CALL)
    assert caught.value.reason_name == "UNSUPPORTED_FEATURE"
    model = await provider.get_model("claude-sonnet-5", CALL)
    assert model.capability_source == v1.CAPABILITY_SOURCE_TABLE
    await provider.close()


def test_credentials() -> None:
    own = anthropic_credentials("up", api_key="sk-ant-123", base_url="http://proxy/v1/")
    assert own.base_url == "http://proxy"
    assert own.secrets == ("sk-ant-123",)
    assert "eu-west-3" in bedrock_credentials("up", region="eu-west-3").base_url
    assert "us-east5" in vertex_credentials("up", region="us-east5", project="p").base_url
