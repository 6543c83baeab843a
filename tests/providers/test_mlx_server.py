"""A server that none of us wrote, `mlx_lm.server`, with the embedded model behind our provider."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import v1
from penstock_server.providers.openai.chat_provider import ChatProvider, bearer

from tests.support import scripted
from tests.support.flavours import FLAVOURS, LoopThread
from tests.support.processes import TINY

PATIENCE = 60.0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running `mlx_lm.server`."""
    home = tmp_path_factory.mktemp("hub")
    (home / "hub").mkdir()  # without it, its list of models crashes
    port = free_port()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(TINY)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "ERROR"]
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    log = (home / "log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    base = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(f"{base}/models"):
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, "mlx_lm.server does not start"
            time.sleep(0.1)
        yield base
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def clients(url: str) -> Iterator[dict[str, Any]]:
    """Both flavours, before a server of ours."""
    loop = LoopThread()
    provider = ChatProvider("mlx", bearer("mlx", url), kind="mlx")
    provider._local = False
    running = scripted.serving(provider)

    async def start() -> str:
        server, _ = await running.__aenter__()
        return server.addresses[0]

    address = loop.run(start())
    made = {name: make(address) for name, make in FLAVOURS.items()}
    yield made
    for client in made.values():
        client.close()

    async def stop() -> None:
        await running.__aexit__(None, None, None)

    loop.run(stop())
    loop.close()


MODEL = f"mlx/{TINY}"
both = pytest.mark.parametrize("flavour", ["sync", "aio"])


@both
def test_whole_and_streamed_are_the_same(clients: dict[str, Any], flavour: str) -> None:
    client = clients[flavour]
    question = "What is the capital of Japan?"
    whole = client.generate(question, model=MODEL, temperature=0, max_output_tokens=30)
    stream = client.stream(question, model=MODEL, temperature=0, max_output_tokens=30)
    text = "".join(stream.text())
    assert penstock.text_of(whole) == text
    assert "Tokyo" in text
    assert whole.usage.input_tokens == stream.response.usage.input_tokens > 0
    assert whole.usage.output_tokens == stream.response.usage.output_tokens > 0
    assert whole.finish_reason == stream.response.finish_reason == v1.FINISH_REASON_STOP


@both
def test_limits_and_stop_strings(clients: dict[str, Any], flavour: str) -> None:
    client = clients[flavour]
    short = client.generate("Tell me a story.", model=MODEL, temperature=0, max_output_tokens=3)
    assert short.finish_reason == v1.FINISH_REASON_MAX_OUTPUT_TOKENS
    assert short.usage.output_tokens == 3
    question = "What is the capital of Japan?"
    stopped = client.generate(question, model=MODEL, temperature=0, stop="Tokyo")
    assert "Tokyo" not in penstock.text_of(stopped)
    assert stopped.finish_reason == v1.FINISH_REASON_STOP


@both
def test_what_it_would_ignore_is_refused(clients: dict[str, Any], flavour: str) -> None:
    with pytest.raises(penstock.UnsupportedFeatureError, match="response_format"):
        clients[flavour].generate("Hi", model=MODEL, response_format="json")


@both
def test_errors_are_errors(clients: dict[str, Any], flavour: str) -> None:
    """It answers them as ``{"error": "text"}``."""
    with pytest.raises(penstock.PenstockError) as caught:
        clients[flavour].generate("Hi", model=MODEL, temperature=0, top_p=0.5, max_output_tokens=2,
                                  provider_options={"temperature": "warm"})  # fmt: skip
    assert caught.value.metadata["provider"] == "mlx"
    assert caught.value.metadata["upstream_status"] in ("400", "422", "500")
    assert caught.value.message


@both
def test_it_goes_on_after_a_caller_has_gone(clients: dict[str, Any], flavour: str) -> None:
    client = clients[flavour]
    stream = client.stream("Tell me a story.", model=MODEL, max_output_tokens=500)
    for _ in stream:
        break
    stream.cancel()
    assert client.generate("Hi", model=MODEL, max_output_tokens=5).usage.output_tokens <= 5


def test_models(clients: dict[str, Any], report: Callable[[str], None]) -> None:
    listed = clients["sync"].list_models()
    assert not listed.failures
    report(f"{len(listed.models)} models listed")
