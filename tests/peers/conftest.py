"""Servers that others wrote, built and run by ``make test-peers``; otherwise nothing is here."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PEERS = os.environ.get("PENSTOCK_PEERS", "")
"""Where ``make test-peers`` has built: the folder with ``bin/llama-server`` and ``tiny.gguf``."""

collect_ignore_glob = [] if PEERS else ["test_*.py"]

SLOTS = 4


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running llama-server; its address without a path."""
    with _running(tmp_path_factory.mktemp("llama")) as url:
        yield url


@pytest.fixture(scope="session")
def llama_server_with_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with a chat template for which it holds a model to call a tool."""
    template = str(Path(PEERS) / "tools.jinja")
    with _running(tmp_path_factory.mktemp("llama"), "--chat-template-file", template) as url:
        yield url


@contextmanager
def _running(folder: Path, *more: str) -> Iterator[str]:
    peers = Path(PEERS)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [str(peers / "bin/llama-server"), "--model", str(peers / "tiny.gguf")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--jinja", "--threads", "2"]
    command += ["--parallel", str(SLOTS), "--ctx-size", str(SLOTS * 2048), "--slots", *more]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 60
            while not _well(url):
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, "llama-server does not start"
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _well(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
