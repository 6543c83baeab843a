"""LM Studio's own API for models: what is there, what is loaded, load, unload, download."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.providers.openai import lmstudio
from penstock_server.providers.openai.chat_provider import bearer
from penstock_server.providers.openai.lmstudio import LMStudioProvider

from tests.providers.asking import CALL
from tests.providers.upstream import Upstream, as_json, completion, serving

QWEN = {
    "type": "llm",
    "publisher": "qwen",
    "key": "qwen/qwen3-4b",
    "display_name": "Qwen3 4B",
    "quantization": {"name": "Q4_K_M", "bits_per_weight": 4},
    "size_bytes": 1,
    "loaded_instances": [{"id": "qwen3-a", "config": {"context_length": 8192}}],
    "max_context_length": 40960,
    "capabilities": {"vision": False, "trained_for_tool_use": True, "reasoning": {"default": "on"}},
}
NOMIC = {
    "type": "embedding",
    "key": "nomic",
    "loaded_instances": [],
    "max_context_length": 2048,
}
LIST: dict[str, Any] = {"models": [QWEN, NOMIC]}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as running:
        yield running


@pytest.fixture
async def provider(upstream: Upstream) -> AsyncIterator[LMStudioProvider]:
    made = LMStudioProvider("up", bearer("up", upstream.url, "lm-token-123"), kind="lmstudio")
    yield made
    await made.close()


async def test_models(upstream: Upstream, provider: LMStudioProvider) -> None:
    upstream.will(as_json(LIST))
    qwen, nomic = await provider.list_models(CALL)
    assert upstream.received[0].path == "/api/v1/models"
    assert upstream.received[0].headers["authorization"] == "Bearer lm-token-123"
    assert (qwen.name, qwen.display_name) == ("up/qwen/qwen3-4b", "Qwen3 4B")
    assert qwen.state == v1.MODEL_STATE_READY
    assert qwen.context_length == 8192  # as it was loaded
    assert v1.CAPABILITY_TOOLS in qwen.capabilities
    assert v1.CAPABILITY_THINKING in qwen.capabilities
    assert v1.CAPABILITY_IMAGE_INPUT not in qwen.capabilities
    assert nomic.state == v1.MODEL_STATE_UNLOADED
    assert list(nomic.capabilities) == [v1.CAPABILITY_EMBED]
    assert nomic.capability_source == v1.CAPABILITY_SOURCE_PROVIDER


async def test_one_model(upstream: Upstream, provider: LMStudioProvider) -> None:
    for name in ("qwen/qwen3-4b", "qwen3-a"):
        upstream.will(as_json(LIST))
        assert (await provider.get_model(name, CALL)).name == "up/qwen/qwen3-4b"
    upstream.will(as_json(LIST))
    with pytest.raises(Failure, match="lms get") as caught:
        await provider.get_model("nope", CALL)
    assert caught.value.reason_name == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("status", "body"), [(404, {}), (200, {"error": "Unexpected endpoint or method."})]
)
async def test_older_ones_list_as_openai_does(
    upstream: Upstream, provider: LMStudioProvider, status: int, body: dict[str, str]
) -> None:
    upstream.will(as_json(body, status))
    upstream.will(as_json({"data": [{"id": "old"}]}))
    assert [m.name for m in await provider.list_models(CALL)] == ["up/old"]
    upstream.will(as_json(body, status))
    with pytest.raises(Failure, match=r"0\.4\.0") as caught:
        async for _ in provider.load_model("old", CALL):
            pass
    assert caught.value.reason_name == "UNSUPPORTED_FEATURE"


async def test_load_and_unload(upstream: Upstream, provider: LMStudioProvider) -> None:
    loaded = {"models": [{**NOMIC, "loaded_instances": [{"id": "n1"}, {"id": "n2"}]}]}
    for answer in (LIST, {"type": "embedding", "instance_id": "n1", "status": "loaded"}, loaded):
        upstream.will(as_json(answer))
    steps = [step async for step in provider.load_model("nomic", CALL)]
    assert [step.progress for step in steps] == [0.0, 1.0]
    assert steps[-1].model.state == v1.MODEL_STATE_READY
    for answer in (loaded, {"instance_id": "n1"}, {"instance_id": "n2"}, LIST):
        upstream.will(as_json(answer))
    assert (await provider.unload_model("nomic", CALL)).state == v1.MODEL_STATE_UNLOADED
    posts = [(r.path, r.json) for r in upstream.received if r.method == "POST"]
    assert posts == [
        ("/api/v1/models/load", {"model": "nomic"}),
        ("/api/v1/models/unload", {"instance_id": "n1"}),
        ("/api/v1/models/unload", {"instance_id": "n2"}),
    ]


async def test_what_is_loaded_is_not_loaded_again(
    upstream: Upstream, provider: LMStudioProvider
) -> None:
    upstream.will(as_json(LIST))
    upstream.will(as_json(LIST))
    (step,) = [step async for step in provider.load_model("qwen/qwen3-4b", CALL)]
    assert step.model.state == v1.MODEL_STATE_READY


async def test_download(
    upstream: Upstream, provider: LMStudioProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmstudio, "LOOK_AGAIN", 0.01)
    for answer in (
        {"job_id": "job_1", "status": "downloading", "total_size_bytes": 200},
        {"job_id": "job_1", "status": "downloading", "total_size_bytes": 200,
         "downloaded_bytes": 50},
        {"job_id": "job_1", "status": "completed", "total_size_bytes": 200,
         "downloaded_bytes": 200},
        LIST,
    ):  # fmt: skip
        upstream.will(as_json(answer))
    steps = [step async for step in provider.pull_model("nomic", CALL)]
    told = [(s.stage, s.completed_bytes, s.total_bytes) for s in steps]
    assert told == [
        ("downloading", 0, 200),
        ("downloading", 50, 200),
        ("completed", 200, 200),
        ("ready", 0, 0),
    ]
    assert steps[-1].model.name == "up/nomic"
    assert upstream.received[1].path == "/api/v1/models/download/status/job_1"
    upstream.will(as_json({"status": "already_downloaded"}))
    upstream.will(as_json(LIST))
    steps = [step async for step in provider.pull_model("nomic", CALL)]
    assert [s.stage for s in steps] == ["already_downloaded", "ready"]
    upstream.will(as_json({"job_id": "job_2", "status": "failed"}))
    with pytest.raises(Failure, match="could not download"):
        async for _ in provider.pull_model("nomic", CALL):
            pass


async def test_answers_are_chat_completions(upstream: Upstream, provider: LMStudioProvider) -> None:
    upstream.will(as_json(completion({"content": "Hello."})))
    answer = await provider.generate("qwen3-a", v1.GenerateRequest(prompt="Hi"), CALL)
    assert answer.message.parts[0].text == "Hello."
    assert upstream.received[0].path == "/v1/chat/completions"
