"""Ollama: its models, and whether its own client reads and writes what we do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import ollama
import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.providers import http_provider
from penstock_server.providers.ollama.provider import OllamaProvider

from tests.providers.asking import CALL, question
from tests.providers.bench import root
from tests.providers.cases import Case
from tests.providers.upstream import Script, Upstream, as_json, serving
from tests.providers.vendors.ollama import CASES, make

TAGS = {
    "models": [
        {"name": "qwen3:0.6b", "model": "qwen3:0.6b", "modified_at": "2026-01-01T00:00:00Z",
         "size": 1, "digest": "7df6b6e09427", "details": {"family": "qwen3"}},
        {"name": "tiny:latest", "model": "tiny:latest"},
    ]
}  # fmt: skip
PS = {"models": [{"name": "tiny:latest", "model": "tiny:latest", "context_length": 4096}]}
SHOW = {
    "capabilities": ["completion", "tools", "thinking", "something new"],
    "details": {"family": "qwen3"},
    "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
}
DONE = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": True, "done_reason": "load"}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as running:
        yield running


@pytest.fixture
async def provider(upstream: Upstream) -> AsyncIterator[OllamaProvider]:
    made = make("up", root(upstream))
    yield made
    await made.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.feature}-{case.name}")
def test_what_is_sent_here_is_what_ollamas_client_reads(case: Case) -> None:
    for line in (*case.stream.splitlines(), case.whole):
        read = ollama.ChatResponse.model_validate_json(line)
        assert read.message.role == "assistant"
        if read.done:
            assert read.eval_count == 13


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.feature}-{case.name}")
async def test_what_we_send_is_what_ollamas_client_would(
    upstream: Upstream, provider: OllamaProvider, case: Case
) -> None:
    upstream.will(Script([case.whole], 200, {"content-type": "application/json"}))
    await provider.generate("m", case.request, CALL)
    (received,) = upstream.received
    assert (received.method, received.path) == ("POST", "/api/chat")
    request = ollama._types.ChatRequest.model_validate(received.json)
    assert [message["role"] for message in request.messages or ()]
    assert received.json.keys() <= ollama._types.ChatRequest.model_fields.keys()
    if "options" in received.json:
        # min_p is in Ollama's own description of its API, and not yet in its client.
        known = ollama.Options.model_fields.keys() | {"min_p"}
        assert received.json["options"].keys() <= known


async def test_models(upstream: Upstream, provider: OllamaProvider) -> None:
    upstream.will(as_json(TAGS))
    upstream.will(as_json(PS))
    models = await provider.list_models(CALL)
    assert [(m.name, m.state) for m in models] == [
        ("up/qwen3:0.6b", v1.MODEL_STATE_UNLOADED),
        ("up/tiny:latest", v1.MODEL_STATE_READY),
    ]
    assert [r.path for r in upstream.received] == ["/api/tags", "/api/ps"]
    assert ollama.ListResponse.model_validate(TAGS).models[0].model == "qwen3:0.6b"
    assert ollama.ProcessResponse.model_validate(PS).models[0].context_length == 4096


async def test_one_model_says_what_it_can_do(upstream: Upstream, provider: OllamaProvider) -> None:
    upstream.will(as_json(SHOW))
    upstream.will(as_json(PS))
    model = await provider.get_model("qwen3:0.6b", CALL)
    assert v1.CAPABILITY_TOOLS in model.capabilities
    assert v1.CAPABILITY_THINKING in model.capabilities
    assert v1.CAPABILITY_IMAGE_INPUT not in model.capabilities
    assert model.capability_source == v1.CAPABILITY_SOURCE_PROVIDER
    assert model.context_length == 40960
    assert model.state == v1.MODEL_STATE_UNLOADED
    assert upstream.received[0].json == {"model": "qwen3:0.6b"}
    assert ollama.ShowResponse.model_validate(SHOW).capabilities


async def test_no_such_model(upstream: Upstream, provider: OllamaProvider) -> None:
    upstream.will(as_json({"error": "model 'x' not found"}, 404))
    with pytest.raises(Failure, match="penstock pull") as caught:
        await provider.get_model("x", CALL)
    assert caught.value.reason_name == "MODEL_NOT_FOUND"


async def test_load_and_unload(upstream: Upstream, provider: OllamaProvider) -> None:
    for answer in (DONE, SHOW, PS, DONE, SHOW, PS):
        upstream.will(as_json(answer))
    steps = [step async for step in provider.load_model("tiny", CALL)]
    assert [step.progress for step in steps] == [0.0, 1.0]
    assert steps[-1].model.state == v1.MODEL_STATE_READY
    assert steps[-1].model.context_length == 4096  # as it was loaded
    assert (await provider.unload_model("tiny", CALL)).state == v1.MODEL_STATE_UNLOADED
    loaded, unloaded = upstream.received[0].json, upstream.received[3].json
    assert loaded == {"model": "tiny", "stream": False}
    assert unloaded == {"model": "tiny", "stream": False, "keep_alive": 0}


PULL: list[dict[str, Any]] = [
    {"status": "pulling manifest"},
    {"status": "pulling 8eeb52", "digest": "sha256:8eeb52", "total": 200},
    {"status": "pulling 8eeb52", "digest": "sha256:8eeb52", "total": 200, "completed": 50},
    {"status": "verifying sha256 digest"},
    {"status": "success"},
]


def lines(*told: dict[str, Any]) -> list[bytes]:
    return [json.dumps(one).encode() + b"\n" for one in told]


async def test_pull(upstream: Upstream, provider: OllamaProvider) -> None:
    upstream.will(Script(lines(*PULL), 200, {"content-type": "application/x-ndjson"}))
    upstream.will(as_json(SHOW))
    upstream.will(as_json(PS))
    steps = [step async for step in provider.pull_model("tiny", CALL)]
    assert [(s.stage, s.completed_bytes, s.total_bytes) for s in steps] == [
        ("pulling manifest", 0, 0),
        ("pulling 8eeb52", 0, 200),
        ("pulling 8eeb52", 50, 200),
        ("verifying sha256 digest", 0, 0),
        ("success", 0, 0),
        ("ready", 0, 0),
    ]
    assert steps[-1].model.name == "up/tiny"
    for told in PULL:
        ollama.ProgressResponse.model_validate(told)


async def test_pulling_what_is_not_there(upstream: Upstream, provider: OllamaProvider) -> None:
    told = [PULL[0], {"error": "pull model manifest: file does not exist"}]
    upstream.will(Script(lines(*told)))
    with pytest.raises(Failure, match="file does not exist"):
        async for _ in provider.pull_model("nope", CALL):
            pass
    upstream.will(Script(lines(*PULL[:2])))
    with pytest.raises(Failure, match="in the middle"):
        async for _ in provider.pull_model("nope", CALL):
            pass


async def test_who_leaves_a_pull_ends_it(upstream: Upstream, provider: OllamaProvider) -> None:
    upstream.will(Script(lines(*PULL[:2]), ending="hold"))
    async with aclosing(provider.pull_model("tiny", CALL)) as steps:
        await anext(steps)
    await upstream.hung_up()


async def test_vectors(upstream: Upstream, provider: OllamaProvider) -> None:
    told = {"model": "e", "embeddings": [[0.5, 1.0], [0.25, 0.0]], "prompt_eval_count": 7}
    upstream.will(as_json(told))
    request = v1.EmbedRequest(inputs=["a", "b"], dimensions=2)
    answer = await provider.embed("e", request, CALL)
    assert [list(e.values) for e in answer.embeddings] == [[0.5, 1.0], [0.25, 0.0]]
    assert answer.usage.input_tokens == 7
    sent = upstream.received[0].json
    assert sent == {"model": "e", "input": ["a", "b"], "truncate": False, "dimensions": 2}
    ollama._types.EmbedRequest.model_validate(sent)
    ollama.EmbedResponse.model_validate(told)
    upstream.will(as_json({**told, "embeddings": [[1.0]]}))
    with pytest.raises(Failure, match="1 vectors for 2 inputs"):
        await provider.embed("e", request, CALL)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"logit_bias": {1: 1}}, "sampling.logit_bias"),
        ("budget", "thinking.budget_tokens"),
        ("choice", "tool_choice.mode"),
        ("url", "messages[0].parts[0].image.url"),
        ("document", "messages[0].parts[0].document"),
        ("strict", "tools[0].strict"),
    ],
)
async def test_what_ollama_has_not_is_refused(
    provider: OllamaProvider, fields: Any, named: str
) -> None:
    request = question()
    tools = [v1.Tool(name="f", strict=fields == "strict")]
    if isinstance(fields, dict):
        request.sampling.CopyFrom(v1.Sampling(**fields))
    elif fields == "budget":
        request.thinking.budget_tokens = 5
    elif fields in ("choice", "strict"):
        request.tools.extend(tools)
        if fields == "choice":
            request.tool_choice.mode = v1.ToolChoice.MODE_REQUIRED
    else:
        part = (
            v1.Part(image=v1.Image(url="https://x.y/z.png"))
            if fields == "url"
            else v1.Part(document=v1.Document(file_id="f"))
        )
        request.messages.append(v1.Message(role=v1.ROLE_USER, parts=[part]))
    with pytest.raises(Failure) as caught:
        await provider.generate("m", request, CALL)
    assert caught.value.reason_name == "UNSUPPORTED_FEATURE"
    assert caught.value.metadata["feature"] == named


async def test_it_is_well_while_it_runs(
    upstream: Upstream, provider: OllamaProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_provider, "LOOK_AGAIN", 0.01)
    upstream.otherwise = as_json(TAGS)
    told: asyncio.Queue[bool] = asyncio.Queue()
    await provider.start(told.put_nowait)
    async with asyncio.timeout(10):
        assert await told.get()
        await upstream.stop()
        while await told.get():
            pass
