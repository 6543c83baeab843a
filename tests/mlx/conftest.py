"""A sidecar that owns the embedded model, its 4-bit copy, and some that cannot be loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import penstock
import pytest

from tests.mlx import broken
from tests.support.flavours import FLAVOURS
from tests.support.processes import TINY, ServerProcess

PROMPTS = ("What is the capital of Japan?", "Count to ten.", "Tell me a story.")


def mlx_sidecar(*arguments: str) -> ServerProcess:
    """An MLX sidecar, on one thread."""
    settings = ["--threads", "1", "--set", "shutdown.notice=0.1"]
    return ServerProcess("penstock_mlx", *arguments, *settings)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models are that tests make."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def plainly(directory: Path) -> dict[str, list[str]]:
    """mlx-lm's own answers to `PROMPTS`; also makes the 4-bit copy."""
    program = Path(__file__).with_name("plainly.py")
    done = subprocess.run(
        [sys.executable, program, TINY, directory / "quantised", *PROMPTS],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    answers: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.fixture(scope="session")
def server(directory: Path, plainly: dict[str, list[str]]) -> Iterator[ServerProcess]:
    """The sidecar. Only the first two of its models can be loaded."""
    models = {"tiny": TINY, "quantised": directory / "quantised"}
    for name in broken.MODELS:
        models[name] = broken.make(name, directory)
    flags = [flag for name, path in models.items() for flag in ("--model", f"{name}={path}")]
    with mlx_sidecar(*flags) as process:
        yield process.ready()
        assert process.stop() == 0


@pytest.fixture(params=FLAVOURS)
def client(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Any]:
    """A client of the sidecar, in either flavour."""
    client = FLAVOURS[request.param](server.address, timeout=60)
    yield client
    client.close()


@pytest.fixture
def plain_client(server: ServerProcess) -> Iterator[penstock.Client]:
    """A client of the sidecar where the flavour makes no difference. It tries once."""
    options = [("grpc.enable_retries", 0)]
    with penstock.Client(server.address, timeout=60, options=options) as client:
        yield client
