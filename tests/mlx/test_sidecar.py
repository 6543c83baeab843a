"""The MLX sidecar as callers and operators meet it: a process of its own, over the wire.

What all sidecars share has its tests in ``tests/contract`` and ``tests/sidecars``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import v1
from penstock_mlx.__main__ import main

from tests.mlx import broken
from tests.mlx.conftest import PROMPTS, mlx_sidecar
from tests.support.processes import TINY, ServerProcess, eventually, gateway, local_tiny

MODEL = "local/tiny"
NEVER_ENDING: dict[str, Any] = {"logit_bias": {2: -100.0}, "max_output_tokens": 1_900}
"""The token that ends an answer is banned."""


def greedy(client: Any, prompt: str, model: str = MODEL, **options: Any) -> str:
    settings = {"max_output_tokens": 40, **options}
    return penstock.text_of(client.generate(prompt, model=model, temperature=0, **settings))


def engine(client: penstock.Client) -> v1.EngineStats:
    return client.get_model(MODEL).engine


def test_it_says_what_mlx_lm_says_unary_and_streamed(
    client: Any, plainly: dict[str, list[str]]
) -> None:
    for prompt, expected in zip(PROMPTS, plainly["whole"], strict=True):
        options = {"model": MODEL, "temperature": 0, "max_output_tokens": 40}
        whole = client.generate(prompt, **options)
        with client.stream(prompt, **options) as stream:
            pieces = list(stream.text())
        assert penstock.text_of(whole) == "".join(pieces) == expected
        again = stream.response.usage
        assert (again.input_tokens, again.output_tokens) == (
            whole.usage.input_tokens,
            whole.usage.output_tokens,
        )
        # All but the last token was computed before; so few as 16 are not looked for.
        cached = again.input_tokens - 1
        assert again.cached_input_tokens == (cached if cached >= 16 else 0)
        assert whole.usage.input_tokens > 5
        assert whole.usage.output_tokens >= len(pieces) > 5


def test_a_quantised_model_too(
    plain_client: penstock.Client, plainly: dict[str, list[str]]
) -> None:
    said = [greedy(plain_client, prompt, "local/quantised") for prompt in PROMPTS]
    assert said == plainly["quantised"]
    assert said != plainly["whole"]
    assert plain_client.get_model("local/quantised").engine.dtype == "4-bit"


def test_many_callers_at_once_get_what_each_gets_alone(
    plain_client: penstock.Client, plainly: dict[str, list[str]]
) -> None:
    odd: list[dict[str, Any]] = [
        {"temperature": 0.9, "seed": seed, "top_p": 0.9} for seed in range(4)
    ]

    def say(which: int) -> str:
        if which % 4 == 3:
            settings: dict[str, Any] = {"max_output_tokens": 20, **odd[which % 16 // 4]}
            answer = plain_client.generate(PROMPTS[2], model=MODEL, **settings)
            return penstock.text_of(answer)
        return greedy(plain_client, PROMPTS[which % 4])

    alone = [say(which) for which in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(say, range(64))) == alone * 4
    assert [text for which, text in enumerate(alone[:3])] == plainly["whole"]


def test_two_models_at_once_and_one_that_comes_back(
    plain_client: penstock.Client, plainly: dict[str, list[str]]
) -> None:
    plain_client.unload_model("local/quantised")
    models = ["local/tiny", "local/quantised"] * 2
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda model: greedy(plain_client, PROMPTS[2], model), models))
    assert said == [plainly["whole"][2], plainly["quantised"][2]] * 2


def test_what_is_known_of_a_model(plain_client: penstock.Client) -> None:
    model = plain_client.get_model(MODEL)
    assert model.state == v1.MODEL_STATE_READY
    assert model.context_length == 2_048
    assert (model.engine.device, model.engine.dtype) == ("cpu", "float32")
    assert model.engine.max_running_requests == 64
    assert model.engine.weights_bytes > 1_000_000
    assert model.engine.kv_cache_bytes == 0, "nothing runs"
    assert 0 < model.engine.prefix_cache_bytes < model.engine.cache_limit_bytes


def test_seeds(plain_client: penstock.Client) -> None:
    def story(**options: Any) -> str:
        settings = {"temperature": 1.5, "max_output_tokens": 20, **options}
        return penstock.text_of(plain_client.generate(PROMPTS[2], model=MODEL, **settings))

    assert story(seed=1) == story(seed=1)
    assert len({story(seed=seed) for seed in (1, 2, 2**63 - 1)}) > 1
    assert len({story() for _ in range(4)}) > 1, "without a seed, answers differ"


def test_the_models_own_sampling_is_the_default(plain_client: penstock.Client) -> None:
    # The embedded model's generation_config: temperature 0.6, top_p 0.9.
    def story(**options: Any) -> str:
        return penstock.text_of(
            plain_client.generate(PROMPTS[2], model=MODEL, seed=3, max_output_tokens=30, **options)
        )

    assert story() == story(temperature=0.6, top_p=0.9)
    assert story() != story(temperature=1.5, top_p=1.0)


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_one_choice_is_no_choice(plain_client: penstock.Client, narrow: dict[str, Any]) -> None:
    hot = plain_client.generate(
        PROMPTS[0], model=MODEL, temperature=2, max_output_tokens=40, **narrow
    )
    assert penstock.text_of(hot) == greedy(plain_client, PROMPTS[0])


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 3.0},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"logit_bias": {2: -100.0, 30: 100.0}},
    ],
)
def test_penalties_and_biases_reach_the_engine(
    plain_client: penstock.Client, options: dict[str, Any]
) -> None:
    plain: dict[str, Any] = {"logit_bias": {2: -100.0}}  # it goes on, and so repeats itself
    changed = greedy(plain_client, PROMPTS[0], **{**plain, **options})
    assert changed != greedy(plain_client, PROMPTS[0], **plain)


def test_limits_and_stop_strings(client: Any) -> None:
    short = client.generate(PROMPTS[2], model=MODEL, max_output_tokens=1)
    assert short.finish_reason == v1.FINISH_REASON_MAX_OUTPUT_TOKENS
    assert short.usage.output_tokens == 1
    stopped = client.generate(PROMPTS[0], model=MODEL, temperature=0, stop=["nothing", "pan is"])
    assert penstock.text_of(stopped) == "The capital of Ja"
    assert stopped.finish_reason == v1.FINISH_REASON_STOP
    assert stopped.stop_sequence == "pan is"


def test_a_prompt_that_is_too_long(client: Any) -> None:
    with pytest.raises(penstock.ContextLengthError, match="2,048"):
        client.generate("water " * 3_000, model=MODEL)


def test_a_cancel_stops_the_engine(client: Any, plain_client: penstock.Client) -> None:
    before = engine(plain_client).output_tokens_computed
    with client.stream(PROMPTS[2], model=MODEL, **NEVER_ENDING) as stream:
        next(stream.text())
        assert engine(plain_client).running_requests == 1
    eventually(lambda: engine(plain_client).running_requests == 0)
    assert engine(plain_client).output_tokens_computed - before < 1_000


@pytest.mark.parametrize("name", broken.MODELS)
def test_why_a_model_cannot_be_loaded(plain_client: penstock.Client, name: str) -> None:
    expected = broken.MODELS[name]
    model = plain_client.get_model(f"local/{name}")
    assert model.state == v1.MODEL_STATE_FAILED
    assert expected.word in model.state_message
    with pytest.raises(penstock.PenstockError, match=expected.word) as caught:
        plain_client.generate("Hi", model=f"local/{name}")
    assert f"ERROR_REASON_{caught.value.reason}" == v1.ErrorReason.Name(expected.reason)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_process_has_what_it_needs_and_no_more(server: ServerProcess) -> None:
    libraries = Path(f"/proc/{server.pid}/maps").read_text()
    assert "libmlx.so" in libraries
    assert "libtorch" not in libraries, "seconds and hundreds of megabytes for nothing"
    warned = any("OpenBLAS is not installed" in line["message"] for line in server.log)
    assert warned == ("libopenblas" not in libraries)
    own, its = (
        [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "files" in line]
        for pid in ("self", server.pid)
    )
    assert its == own, "mlx_lm would set it to 2,048"
    assert {line["logger"] for line in server.log} <= {"penstock", "penstock.calls"}


def test_a_gateway_starts_it(report: Callable[[str], None]) -> None:
    with gateway(*local_tiny("engine=mlx", "threads=1")) as process:
        started = time.monotonic()
        with penstock.Client(process.ready().address, timeout=60) as client:
            assert "Tokyo" in greedy(client, PROMPTS[0])
            report(f"start-up {time.monotonic() - started:.1f} s")
            started = time.monotonic()
            answer = client.generate(
                PROMPTS[2], model=MODEL, **{**NEVER_ENDING, "max_output_tokens": 100}
            )
            assert answer.usage.output_tokens == 100
            report(f"{100 / (time.monotonic() - started):.0f} tokens/s")
            assert engine(client).dtype == "float32"
        sidecar = next(line["pid"] for line in process.log if line["message"] == "sidecar started")
        environ = Path(f"/proc/{sidecar}/environ").read_text().split("\0")
        if "libopenblas" in Path(f"/proc/{sidecar}/maps").read_text():
            assert any(one.startswith("LD_PRELOAD=libopenblas") for one in environ)
            assert "OPENBLAS_NUM_THREADS=1" in environ


@pytest.mark.parametrize(("flag", "value"), [("--device", "cuda"), ("--dtype", "int8")])
def test_what_mlx_cannot_honour_is_refused(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--model", str(TINY), flag, value])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {flag}: invalid choice: '{value}'" in said


@pytest.mark.skipif(sys.platform != "linux", reason="there may be a GPU")
def test_a_device_that_is_not_there() -> None:
    with mlx_sidecar("--model", f"tiny={TINY}", "--device", "gpu") as process:
        failed = process.wait_for(lambda line: line["message"] == "model cannot be loaded")
        assert "--device gpu" in failed["why"]
