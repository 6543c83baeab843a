"""From a directory to a model: what is read, what is refused and why, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from penstock import v1
from penstock_hf.backend import HFBackend
from penstock_server.errors import Failure
from penstock_server.local.backend import written
from penstock_server.local.checkpoint import Reason, explain
from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded
from penstock_server.local.job import Job

from tests.sidecars import random_models
from tests.sidecars.counting import number_text
from tests.sidecars.vocabularies import END


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.save(tmp_path_factory.mktemp("llama"))


def load(source: Path | str, **options: Any) -> tuple[HFBackend, Loaded]:
    settings = {"device": "cpu", "threads": 1, **options}
    backend = HFBackend(ModelSpec(str(source), **settings))
    return backend, backend.load(lambda progress, stage: None)


def failure_of(source: Path | str, **options: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        load(source, **options)
    return caught.value


def edit(directory: Path, file: str = "config.json", **changes: Any) -> None:
    path = directory / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A copy of a good model, to be spoilt."""
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def test_progress_rises_to_the_end_of_the_weights(llama: Path) -> None:
    heard: list[tuple[float, str]] = []
    HFBackend(ModelSpec(str(llama), device="cpu", threads=1)).load(
        lambda progress, stage: heard.append((progress, stage))
    )
    progress = [p for p, _ in heard]
    assert progress == sorted(progress)
    assert 0.2 < progress[-1] < 0.95
    assert len({p for p, stage in heard if stage == "reading the weights"}) > 3


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (
            lambda d: shutil.rmtree(d),
            v1.ERROR_REASON_MODEL_NOT_FOUND,
            "is no directory",
        ),
        (
            lambda d: (d / "config.json").unlink(),
            v1.ERROR_REASON_MODEL_NOT_FOUND,
            "no config.json",
        ),
        (
            lambda d: edit(d, model_type="flux_capacitor"),
            v1.ERROR_REASON_UNSUPPORTED_FEATURE,
            "architecture",
        ),
        (
            lambda d: edit(d, model_type="vit"),
            v1.ERROR_REASON_UNSUPPORTED_FEATURE,
            "architecture",
        ),
        (
            lambda d: edit(d, num_hidden_layers=3),
            v1.ERROR_REASON_UNSUPPORTED_FEATURE,
            "lacks",
        ),
        (
            lambda d: edit(
                d, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "o.M"}
            ),
            v1.ERROR_REASON_UNSUPPORTED_FEATURE,
            "--trust-remote-code",
        ),
        (
            lambda d: (d / "model.safetensors").write_bytes(b"not weights at all"),
            v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
            "damaged",
        ),
        (
            lambda d: (d / "model.safetensors").unlink(),
            v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
            "cannot be read",
        ),
        (
            lambda d: (d / "config.json").write_text("{"),
            v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
            "damaged",
        ),
    ],
)
def test_why_a_directory_cannot_be_loaded(
    copy: Path, spoil: Any, reason: v1.ErrorReason.ValueType, words: str
) -> None:
    spoil(copy)
    failure = failure_of(copy)
    assert failure.reason == reason, failure.message
    assert words in failure.message
    assert str(copy) in failure.message


def test_a_device_or_type_that_is_not_there(llama: Path) -> None:
    assert "--device" in failure_of(llama, device="cuda:7").message
    assert "--device" in failure_of(llama, device="tpu9000").message
    assert "--dtype" in failure_of(llama, dtype="int64").message


class LocalEntryNotFoundError(Exception):
    """Named like huggingface_hub's own, which it raises after half a minute of trying."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalEntryNotFoundError(), "cannot be reached"),
        (MemoryError(), "too little memory"),
        (json.JSONDecodeError("x", "{", 1), "damaged"),
        (ImportError("sentencepiece"), "not installed"),
    ],
)
def test_what_a_test_cannot_provoke_is_explained_too(error: Exception, words: str) -> None:
    failure = explain(error, "org/model")
    assert failure is not None
    assert words in failure.message


def test_a_sidecars_own_reasons_come_first_and_causes_count() -> None:
    own = [Reason("RuntimeError", "allocate", v1.ERROR_REASON_SIDECAR_UNAVAILABLE, "buy memory")]
    error = OSError("cannot read")
    error.__cause__ = RuntimeError("can't allocate memory: 9 bytes")
    failure = explain(error, "org/model", own)
    assert failure is not None
    assert failure.message.startswith("org/model: buy memory. (RuntimeError: can't")


def test_what_is_not_known_is_not_explained() -> None:
    assert explain(ZeroDivisionError(), "org/model") is None
    assert explain(Failure(v1.ERROR_REASON_ENGINE_FAILURE, "known"), "org/model") is None


def test_options_are_followed(copy: Path) -> None:
    edit(copy, "generation_config.json", max_new_tokens=9, stop_strings=["STOP"], eos_token_id=[0])
    _, loaded = load(copy, dtype="bfloat16", context_length=64)
    assert loaded.dtype == "bfloat16"
    assert loaded.context_length == 64
    assert loaded.max_output_tokens == 9
    assert loaded.stop == ("STOP",)
    assert loaded.end == {0, END}  # the tokenizer's own end ends an answer, too
    assert load(copy, context_length=10_000)[1].context_length == random_models.CONTEXT


def test_a_generation_config_cannot_make_an_answer_something_else(copy: Path) -> None:
    expected = write(load(copy)[0])
    surprising: dict[str, Any] = {
        "num_beams": 3,
        "num_return_sequences": 2,
        "max_length": 5,
        "stop_strings": ["x"],
        "use_cache": False,
        "return_dict_in_generate": True,
        "output_scores": True,
        "prompt_lookup_num_tokens": 3,
        "temperature": 0.7,
        "max_time": 0.0,
    }
    edit(copy, "generation_config.json", **surprising)
    assert write(load(copy)[0]) == expected


def write(backend: HFBackend, tokens: int = 20, prompt: Sequence[int] = (9, 8, 7)) -> list[int]:
    job = Job(prompt, number_text(), v1.Sampling(), limit=tokens)
    return [outcome.token or 0 for outcome in written(backend, job, tokens)]


def test_a_padding_token_in_the_prompt_is_seen_by_the_model(llama: Path) -> None:
    backend, _ = load(llama)
    assert write(backend, 8, [9, 0, 0, 0, 0, 7]) != write(backend, 8, [9, 7])


def test_one_at_a_time_a_cancel_stops_a_long_prompt_between_layers(tmp_path: Path) -> None:
    directory = random_models.save(tmp_path, "mamba", num_hidden_layers=12)
    backend, loaded = load(directory)
    assert (loaded.max_running, bool(loaded.one_at_a_time)) == (1, True)
    assert backend._batch is not None
    model: Any = backend._batch._model
    layers = model.backbone.layers
    began: list[int] = []
    job = Job([9] * 400, number_text(), v1.Sampling(), limit=5)

    def watch(number: int) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            began.append(number)
            if number == 2:
                # From another thread, as it happens in a sidecar.
                thread = threading.Thread(target=lambda: setattr(job, "cancelled", True))
                thread.start()
                thread.join()

        return hook

    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(watch(number))
    assert backend.join(job)
    assert not list(backend.step())
    assert began == [0, 1, 2]  # the fourth layer looked first
    backend.leave(job)
    assert len(write(backend)) == 20  # the next answer is not touched by it


_SCRIPT = """
import json, os, socket, sys
from penstock_hf.backend import HFBackend
from penstock_server.local.command import ModelSpec
from penstock_server.errors import Failure

connect, resolve = socket.socket.connect, socket.getaddrinfo
def refuse(*args, **kwargs):
    raise AssertionError(f"the network was touched: {args}")
socket.socket.connect = socket.getaddrinfo = refuse
backend = HFBackend(ModelSpec(sys.argv[1], device="cpu", threads=1))
loaded = backend.load(lambda progress, stage: None)
loaded.tokenizer.encode_chat([{"role": "user", "content": "Hi"}])
backend.unload()

socket.socket.connect, socket.getaddrinfo = connect, resolve
for source in sys.argv[2:]:
    try:
        HFBackend(ModelSpec(source, device="cpu", threads=1)).load(lambda progress, stage: None)
    except Failure as failure:
        print(failure.reason_name, failure.message)
"""


class Hub(BaseHTTPRequestHandler):
    """A Hub that has no models, except one that it shows to nobody."""

    def do_HEAD(self) -> None:
        gated = "secret" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


def test_a_directory_is_read_without_network_and_a_hub_id_is_asked_for(
    llama: Path, tmp_path: Path
) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    with hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        environ |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
            "HF_HOME": str(tmp_path),
        }
        sources = [str(llama), "models/tinny", "org/secret", "not/a/hub/id"]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", _SCRIPT, *sources],
            capture_output=True,
            text=True,
            env=environ,
            check=False,
            timeout=60,
        )
        hub.shutdown()
    assert (done.returncode, done.stderr) == (0, "")
    missing, gated, nonsense = done.stdout.splitlines()
    assert missing.startswith("MODEL_NOT_FOUND models/tinny: there is no such directory")
    assert gated.startswith("SIDECAR_UNAVAILABLE org/secret: its makers")
    assert nonsense.startswith("MODEL_NOT_FOUND not/a/hub/id: there is no such directory")
