"""The command line, and the lifeline to who started it. Processes are tested elsewhere."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
from penstock_hf.__main__ import COMMAND, main
from penstock_server.compute import WAITING, default_threads
from penstock_server.config import ConfigError, GatewayConfig
from penstock_server.gateway import sidecar_command
from penstock_server.local.batching import BatchEngine
from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Engine
from penstock_server.local.recipe import Look
from penstock_server.provider_settings import SidecarSettings

from tests.sidecars.counting import CountingBackend


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("tiny=models/tiny", "tiny"),
        ("models/tiny", "tiny"),
        ("models/tiny/", "tiny"),
        ("Qwen/Qwen3-8B", "Qwen3-8B"),
        ("a=b=c", "a"),
    ],
)
def test_names_of_models(argument: str, name: str) -> None:
    assert list(COMMAND.recipes(COMMAND.parser().parse_args(["--model", argument]))) == [name]


@pytest.mark.parametrize("arguments", [["=x"], ["x="], ["a/tiny", "b/tiny"]])
def test_models_that_cannot_be_named(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag for argument in arguments for flag in ("--model", argument)]
    with pytest.raises(ConfigError):
        COMMAND.recipes(COMMAND.parser().parse_args(flags))
    assert main(flags) == 2
    assert "--model" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--threads", "--max-queue", "--context-length", "--max-batch"])
def test_numbers_that_make_no_sense(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        COMMAND.parser().parse_args(["--model", "m", flag, "0"])
    assert "must be at least 1" in capsys.readouterr().err


async def test_flags_reach_the_engine() -> None:
    args = COMMAND.parser().parse_args(["--model", "m", "--max-queue", "3", "--threads", "2"])
    engine = COMMAND.recipes(args)["m"].make(Look(), 0)
    assert isinstance(engine, BatchEngine)
    assert engine._queue._most == 3
    await engine.close()


def test_flags_reach_the_specification() -> None:
    made: list[ModelSpec] = []

    def make(spec: ModelSpec, name: str, max_waiting: int) -> Engine:
        made.append(spec)
        return BatchEngine(CountingBackend(), name)

    command = replace(COMMAND, make_engine=make)
    flags = "--prefill-chunk 64 --max-batch 8 --cache-memory 1.5GiB --attention eager"
    for arguments in (flags.split(), []):
        args = command.parser().parse_args(["--model", "m", *arguments, "--context-length", "9"])
        with suppress(RuntimeError):  # no event loop here for the engine: the specification does
            command.recipes(args)["m"].make(Look(), 3 * 2**29)
    told, default = made
    assert (told.prefill_chunk, told.max_batch, told.cache_memory) == (64, 8, 3 * 2**29)
    assert (told.attention, told.context_length) == ("eager", 9)
    assert (default.prefill_chunk, default.max_batch, default.attention) == (0, 0, "auto")


@pytest.mark.parametrize("arguments", ["--memory much", "--cache-memory 0", "--keep-alive -1"])
def test_sizes_and_times_that_make_no_sense(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        COMMAND.parser().parse_args(["--model", "m", *arguments.split()])
    assert arguments.split()[0] in capsys.readouterr().err


def test_an_engine_with_one_attention_has_no_flag_for_it() -> None:
    with pytest.raises(SystemExit):
        replace(COMMAND, attentions=()).parser().parse_args(["--model", "m", "--attention", "sdpa"])


def test_threads_leave_a_core_to_the_event_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads, with_both in ((1, 1, 1), (2, 1, 2), (3, 2, 2), (8, 7, 7)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: range(n), raising=False)
        assert _spec("--model", "m").threads == with_both
        assert default_threads() == threads
    assert _spec("--model", "m", "--threads", "3").threads == 3
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert _spec("--model", "m").threads >= 1


def _spec(*flags: str) -> ModelSpec:
    made: list[ModelSpec] = []

    def make(spec: ModelSpec, name: str, max_waiting: int) -> Engine:
        made.append(spec)
        raise ConfigError("seen")

    command = replace(COMMAND, make_engine=make)
    [recipe] = command.recipes(command.parser().parse_args(flags)).values()
    with pytest.raises(ConfigError):
        recipe.make(Look(), 0)
    return made[0]


def test_threads_that_wait_do_not_burn_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITING:
        monkeypatch.setenv(name, "")
        del os.environ[name]
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")  # the operator's own word
    assert main(["--model", "=x"]) == 2
    assert {name: os.environ[name] for name in WAITING} == {**WAITING, "GOMP_SPINCOUNT": "7"}


def test_a_gateways_settings_are_flags_that_the_sidecar_knows() -> None:
    told = {
        "threads": 3,
        "context_length": 99,
        "prefill_chunk": 64,
        "max_batch": 5,
        "memory": "1.5GiB",
        "cache_memory": 1_000,
        "keep_alive": 2.5,
        "attention": "eager",
        "lazy": True,
    }
    models = {"kind": "sidecar", "models": {"m": "models/tiny"}}
    for own in (told, {}):
        settings = SidecarSettings.model_validate({**models, **own})
        line = sidecar_command(settings, "unix:/tmp/x", GatewayConfig())
        args = COMMAND.parser().parse_args(line[3:])
        expected = {**told, "memory": 3 * 2**29} if own else vars(_default_args())
        for key in told:
            assert getattr(args, key) == expected[key], key


def _default_args() -> argparse.Namespace:
    return COMMAND.parser().parse_args(["--model", "m"])


def test_settings_that_an_engine_does_not_have() -> None:
    models = {"kind": "sidecar", "models": {"m": "models/tiny"}}
    with pytest.raises(ValueError, match="one attention only"):
        SidecarSettings.model_validate({**models, "engine": "mlx", "attention": "sdpa"})
    with pytest.raises(ValueError, match="is no size"):
        SidecarSettings.model_validate({**models, "memory": "plenty"})


_HELD = """
from penstock_server.local.lifeline import watch_parent
watch_parent()
print("watching", flush=True)
while True:  # the main thread is busy, and never looks
    pass
"""


def test_a_sidecar_ends_with_its_parent() -> None:
    # A pipe of our own, as the gateway's: the child must not inherit the writing end.
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", _HELD], stdin=reading, stdout=subprocess.PIPE
    ) as child:
        os.close(reading)
        assert child.stdout is not None
        assert child.stdout.readline() == b"watching\n"
        os.write(writing, b"what is written is ignored\n")
        assert child.poll() is None
        os.close(writing)
        assert child.wait(20) == 0


def test_a_sidecar_without_a_parent_does_not_stay() -> None:
    closed = f"import os; os.close(0)\n{_HELD}"
    with subprocess.Popen(
        [sys.executable, "-c", closed], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as child:
        assert child.wait(20) == 0


def test_nothing_heavy_is_imported_before_the_server_listens() -> None:
    code = "import sys, penstock_hf.__main__; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
