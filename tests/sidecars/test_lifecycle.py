"""Real models in real sidecars: who is in memory, who makes way, what embeds, and what fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import penstock
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock import v1

from tests.sidecars import encoders, random_models
from tests.support.flavours import FLAVOURS
from tests.support.processes import ROOT, ServerProcess, children, eventually, gateway, sidecar

MEGABYTE = 1_000_000
TEXTS = ["Once upon a time", "a little fox", "x"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models that write, of 3 MB each in float32, and two that embed."""
    root = tmp_path_factory.mktemp("models")
    for name in "abc":
        random_models.save(root / name, intermediate_size=3_850)
        assert 2.9 < (root / name / "model.safetensors").stat().st_size / MEGABYTE < 3.1
    encoders.save(root / "bert")
    pooling = {"pooling_mode_lasttoken": True}
    encoders.pooled(encoders.save(root / "qwen", "qwen3"), pooling)
    return root


def serve(root: Path, names: str, *flags: str) -> ServerProcess:
    arguments = [flag for name in names.split() for flag in ("--model", f"{name}={root / name}")]
    return sidecar(*arguments, "--threads", "1", "--device", "cpu", *flags)


def client_of(process: ServerProcess) -> penstock.Client:
    return penstock.Client(process.address, timeout=60, options=[("grpc.enable_retries", 0)])


def states(client: Any, prefix: str = "local") -> dict[str, str]:
    return {
        model.name.removeprefix(f"{prefix}/"): v1.ModelState.Name(model.state).removeprefix(
            "MODEL_STATE_"
        )
        for model in client.list_models(provider=prefix).models
    }


def ask(client: Any, model: str) -> v1.GenerateResponse:
    request = v1.GenerateRequest(model=model, prompt="Hi")
    request.sampling.max_output_tokens = 3
    response: v1.GenerateResponse = client.generate(request)
    return response


def test_the_least_recently_used_model_makes_way(models: Path) -> None:
    with serve(models, "a b c", "--lazy", "--memory", "8MB").ready() as process:
        with client_of(process) as client:
            for name, there in (
                ("a", "a"),
                ("b", "ab"),
                ("c", "bc"),
                ("b", "bc"),
                ("a", "ab"),
            ):
                assert ask(client, f"local/{name}").usage.output_tokens == 3
                ready = {name for name, state in states(client).items() if state == "READY"}
                assert ready == set(there)
            engine = client.get_model("local/a").engine
            assert 2.9 < engine.weights_bytes / MEGABYTE < 3.3
            assert 0 < engine.cache_limit_bytes < 2 * MEGABYTE
            # Loading by hand has its progress, and the same rules.
            steps = list(client.load_model("local/c"))
            assert steps[-1].model.state == v1.MODEL_STATE_READY
            assert [step.progress for step in steps] == sorted(step.progress for step in steps)
            assert states(client) == {"a": "READY", "b": "UNLOADED", "c": "READY"}
            client.unload_model("local/c")
            assert states(client) == {"a": "READY", "b": "UNLOADED", "c": "UNLOADED"}
        assert any(line["message"] == "model has to make way" for line in process.log)


def test_at_the_start_as_many_are_loaded_as_fit(models: Path) -> None:
    with serve(models, "a b c", "--memory", "8MB").ready() as process, client_of(process) as client:
        before = states(client)
        assert sorted(before.values()) == ["READY", "READY", "UNLOADED"]
        [left] = [name for name, state in before.items() if state == "UNLOADED"]
        message = client.get_model(f"local/{left}").state_message
        assert "too little memory" in message
        ask(client, f"local/{left}")
        assert states(client)[left] == "READY"


def test_what_can_never_fit_says_so_and_the_rest_keeps_running(models: Path) -> None:
    server = serve(models, "bert a", "--memory", "2MB").ready()
    with server as process, client_of(process) as client:
        assert states(client) == {"a": "FAILED", "bert": "READY"}
        with pytest.raises(penstock.PenstockError) as caught:
            ask(client, "local/a")
        assert caught.value.reason == "SIDECAR_UNAVAILABLE"
        assert "too little memory for a: it needs 3.2 MiB" in caught.value.message
        client.embed(TEXTS, model="local/bert")


def test_an_idle_model_is_unloaded_and_loaded_again(models: Path) -> None:
    server = serve(models, "a bert", "--keep-alive", "0.5").ready()
    with server as process, client_of(process) as client:
        for _ in range(2):
            ask(client, "local/a")
            client.embed(TEXTS, model="local/bert")
            assert states(client) == {"a": "READY", "bert": "READY"}
            eventually(lambda: set(states(client).values()) == {"UNLOADED"})
        assert serving(process, "penstock.v1.GenerationService")


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the process as Linux does")
def test_a_model_that_does_not_fit_into_memory_leaves_the_rest_running(
    models: Path, tmp_path: Path
) -> None:
    big = random_models.inflate(random_models.save(tmp_path / "big"), 2_600_000)
    arguments = ["--model", f"big={big}", "--model", f"a={models / 'a'}"]
    # It is told that there is room, so that it finds out by itself.
    arguments += ["--memory", "100GB", "--cache-memory", "1MB", "--threads", "1", "--device", "cpu"]
    environment = {"ROOM": str(1_200 * MEGABYTE)}
    process = ServerProcess("tests.sidecars.bounded", *arguments, env=environment, cwd=ROOT)
    with process.ready(), client_of(process) as client:
        assert states(client) == {"a": "READY", "big": "FAILED"}
        for _ in range(2):
            with pytest.raises(penstock.PenstockError) as caught:
                list(client.load_model("local/big"))
            assert caught.value.reason == "SIDECAR_UNAVAILABLE"
            assert "too little memory for it" in caught.value.message
            assert ask(client, "local/a").usage.output_tokens == 3


def test_a_sidecar_that_a_gateway_starts_is_told_and_waits_passively(models: Path) -> None:
    values = ["kind=sidecar", f"models.a={models / 'a'}", "device=cpu", "lazy=true"]
    values += ["keep_alive=300", "memory=1GiB", "max_batch=3"]
    with gateway(*(f for v in values for f in ("--set", f"providers.local.{v}"))) as process:
        with client_of(process.ready()) as client:
            # On a busy machine a gateway may be ready before it has reached its sidecar.
            eventually(lambda: states(client) == {"a": "UNLOADED"})
            ask(client, "local/a")
            assert client.get_model("local/a").engine.max_running_requests == 3
        [pid] = children(process.pid)
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert "OMP_WAIT_POLICY=PASSIVE" in environment
        # It counts its own cores: it may run where there are others.
        assert "--threads" not in Path(f"/proc/{pid}/cmdline").read_text()


@pytest.fixture(scope="module")
def embedding_sidecar(models: Path) -> Iterator[ServerProcess]:
    with serve(models, "a bert qwen").ready() as process:
        yield process


@pytest.fixture(scope="module")
def embedding_gateway(models: Path) -> Iterator[ServerProcess]:
    values = ["kind=sidecar", "device=cpu", "threads=1"]
    values += [f"models.{name}={models / name}" for name in ("a", "bert", "qwen")]
    with gateway(*(f for v in values for f in ("--set", f"providers.local.{v}"))) as process:
        yield process.ready()


@pytest.fixture(params=["sidecar", "gateway"])
def process(request: pytest.FixtureRequest) -> ServerProcess:
    found: ServerProcess = request.getfixturevalue(f"embedding_{request.param}")
    return found


@pytest.fixture(params=FLAVOURS)
def client(request: pytest.FixtureRequest, process: ServerProcess) -> Iterator[Any]:
    client = FLAVOURS[request.param](process.address, timeout=60)
    yield client
    client.close()


def test_texts_become_vectors_on_the_wire(models: Path, client: Any) -> None:
    for name in ("bert", "qwen"):
        response = client.embed(TEXTS, model=f"local/{name}")
        assert response.model == f"local/{name}"
        tokens = 0
        for text, embedding in zip(TEXTS, response.embeddings, strict=True):
            states = encoders.states(models / name, text)
            tokens += len(states)
            expected = states.mean(0) if name == "bert" else states[-1]
            expected = torch.nn.functional.normalize(expected, dim=0)
            assert list(embedding.values) == pytest.approx(expected.tolist(), abs=1e-4)
        assert response.usage.input_tokens == tokens
        [short] = client.embed(TEXTS[0], model=f"local/{name}", dimensions=8).embeddings
        assert len(short.values) == 8


def test_what_a_model_cannot_do_is_refused(client: Any) -> None:
    with pytest.raises(penstock.PenstockError) as caught:
        ask(client, "local/bert")
    assert (caught.value.reason, caught.value.metadata["model"]) == (
        "UNSUPPORTED_FEATURE",
        "local/bert",
    )
    with pytest.raises(penstock.PenstockError) as caught:
        client.embed(TEXTS, model="local/a")
    assert caught.value.reason == "UNSUPPORTED_FEATURE"
    with pytest.raises(penstock.PenstockError) as caught:
        client.embed(["a", "🦊" * 200], model="local/bert")
    assert caught.value.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert caught.value.field_violations[0].field == "inputs[1]"
    with pytest.raises(penstock.PenstockError) as caught:
        client.embed(TEXTS, model="local/bert", dimensions=33)
    assert caught.value.field_violations[0].field == "dimensions"


def test_what_embeds_is_listed_and_its_service_healthy(process: ServerProcess, client: Any) -> None:
    found = {m.name: list(m.capabilities) for m in client.list_models(provider="local").models}
    assert found["local/bert"] == found["local/qwen"] == [v1.CAPABILITY_EMBED]
    assert v1.CAPABILITY_EMBED not in found["local/a"]
    assert client.get_model("local/bert").context_length == encoders.POSITIONS
    assert serving(process, "penstock.v1.EmbeddingService")


def test_without_a_model_that_embeds_nobody_says_so(models: Path) -> None:
    with serve(models, "a").ready() as process:
        assert not serving(process, "penstock.v1.EmbeddingService")
        assert serving(process, "penstock.v1.GenerationService")


def serving(process: ServerProcess, service: str) -> bool:
    with grpc.insecure_channel(process.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service)
        )
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
