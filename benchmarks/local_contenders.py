"""Who is measured by ``local.py``: how each is started, and what it cannot do without.

A contender is a server and a load that asks it, or a load alone that computes by itself. All have
the same model, the same questions, and their own choice of threads. Sizes that have to be set are
set so that nobody waits for a place: as many slots, or cache, as there are callers.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.local_process import Failed, Process, answers, log_message, tree

HERE = Path(__file__).parent
MODEL = "local/bench"


@dataclass(frozen=True)
class Setup:
    """What all contenders have in common."""

    model: Path
    dtype: str
    engine: str
    callers: int
    """The most callers at a time."""
    build: Path
    peers: Path
    """Where ``make test-peers`` has built llama.cpp's server."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """More keys of the gateway's ``providers.local``."""

    @property
    def serving(self) -> Path:
        """The Python with transformers' own server, made by ``make benchmark-peers``."""
        return self.build / "serving/bin/python"


@dataclass
class Running:
    """A contender that is ready: its load, and its parts by name, each with its processes."""

    load: Process
    parts: Mapping[str, Callable[[], Sequence[int]]]
    processes: Sequence[Process]

    def stop(self) -> None:
        """End all of it."""
        for process in reversed(self.processes):
            process.stop()


@dataclass(frozen=True)
class Server:
    """Started: where it is, and its parts."""

    process: Process
    options: Mapping[str, Any]
    """What the load has to know of it."""
    parts: Mapping[str, Callable[[], Sequence[int]]]


@dataclass(frozen=True)
class Contender:
    """One row: a ``key`` for ``--only``, and a ``label``.

    ``asker`` is one of ``local_load.ASKERS``; ``server`` starts what it asks (None: it computes by
    itself); ``missing`` says why it cannot be measured here, and what to do, or nothing.
    """

    key: str
    label: str
    engines: Sequence[str]
    asker: str
    server: Callable[[Setup], Server] | None = None
    options: Callable[[Setup], Mapping[str, Any]] = lambda setup: {}
    missing: Callable[[Setup], str] = lambda setup: ""

    def start(self, setup: Setup) -> Running:
        """Start it; returns once it can be asked."""
        server = self.server(setup) if self.server else None
        options = {
            "directory": str(setup.model),
            "dtype": setup.dtype,
            "callers": setup.callers,
            **self.options(setup),
            **(server.options if server else {}),
        }
        command = [sys.executable, str(HERE / "local_load.py"), self.asker, json.dumps(options)]
        env = _openblas() if self.asker == "mlx_thread" else {}
        load = Process(f"{self.label}: load", command, _log(setup, f"{self.key}-load"), env, True)
        processes = [server.process, load] if server else [load]
        running = Running(
            load, server.parts if server else {"all": lambda: tree(load.pid)}, processes
        )
        try:
            if load.hear() != "ready":
                raise load.failed("is not ready")
        except BaseException:
            running.stop()
            raise
        return running


def penstock(setup: Setup) -> Server:
    """A gateway as an operator starts it, which starts the sidecar."""
    settings = {
        "kind": "sidecar",
        "engine": setup.engine,
        "models.bench": str(setup.model),
        "dtype": setup.dtype,
        **setup.settings,
    }
    command = [sys.executable, "-m", "penstock_server", "--listen", "127.0.0.1:0"]
    command += ["--log-format", "json", "--set", "shutdown.notice=0"]
    for key, value in settings.items():
        command += ["--set", f"providers.local.{key}={value}"]
    gateway = Process("penstock-server", command, _log(setup, "penstock"))
    try:
        ready = gateway.until(lambda: log_message(gateway, "ready"))
        if "local" not in str(ready.get("providers")):
            raise gateway.failed("its sidecar is not well")
        listening = log_message(gateway, "listening")
    except BaseException:
        gateway.stop()
        raise
    assert listening is not None  # logged before "ready"
    return Server(
        gateway,
        {"target": listening["address"], "model": MODEL},
        {"gateway": lambda: [gateway.pid], "sidecar": lambda: tree(gateway.pid)[1:]},
    )


def _http(
    name: str,
    setup: Setup,
    command: Sequence[str],
    health: str,
    model: str,
    body: Mapping[str, Any],
    env: Mapping[str, str] | None = None,
) -> Server:
    """A server of Chat Completions; {port} in its command is a free one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [word.replace("{port}", str(port)) for word in command]
    process = Process(name, command, _log(setup, name), env)
    url = f"http://127.0.0.1:{port}"
    try:
        process.until(lambda: answers(url + health))
    except BaseException:
        process.stop()
        raise
    options = {"url": url, "model": model, "body": body}
    return Server(process, options, {"all": lambda: tree(process.pid)})


def mlx_lm_server(setup: Setup) -> Server:
    """mlx-lm's own server, with OpenBLAS preloaded (the sidecar does that by itself)."""
    home = setup.build / "hub"
    (home / "hub").mkdir(parents=True, exist_ok=True)  # without it, its list of models crashes
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(setup.model)]
    command += ["--host", "127.0.0.1", "--port", "{port}", "--log-level", "ERROR"]
    command += ["--decode-concurrency", str(max(32, setup.callers))]
    env = {"HF_HOME": str(home), **_openblas()}
    usage = {"stream_options": {"include_usage": True}}
    return _http("mlx_lm.server", setup, command, "/v1/models", str(setup.model), usage, env)


def transformers_serve(setup: Setup) -> Server:
    """transformers' own server, batching continuously."""
    cache = _cache(setup)
    command = [str(setup.serving), "-m", "transformers.cli.transformers", "serve", str(setup.model)]
    command += ["--device", "cpu", "--dtype", setup.dtype, "--continuous-batching"]
    command += ["--cb-num-blocks", str(cache["blocks"])]
    command += ["--cb-max-batch-tokens", str(cache["batch_tokens"])]
    command += ["--host", "127.0.0.1", "--port", "{port}", "--log-level", "error"]
    # Greedy by the model's own configuration; a temperature of 0 does not agree with its batching.
    return _http("transformers serve", setup, command, "/health", str(setup.model), {})


def llama_server(setup: Setup) -> Server:
    """llama.cpp's server, with the model as GGUF."""
    model = setup.build / f"{setup.model.name}-{setup.dtype}.gguf"
    if not model.exists() or model.stat().st_mtime < setup.model.stat().st_mtime:
        script = HERE.parent / "tests/peers/convert.py"
        python = str(setup.peers / "venv/bin/python")
        command = [python, str(script), str(setup.model), str(model), setup.dtype]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failed(f"{setup.model} cannot be written as GGUF:\n{done.stderr[-1000:]}")
    command = [str(setup.peers / "bin/llama-server"), "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", "{port}", "--jinja"]
    command += ["--parallel", str(setup.callers), "--ctx-size", str(512 * setup.callers)]
    body = {"temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True}}
    return _http("llama-server", setup, command, "/health", "bench", body)


def _cache(setup: Setup) -> dict[str, Any]:
    """The size of transformers' cache: its blocks are 256 tokens, which no question exceeds."""
    return {"blocks": 2 * max(setup.callers, 16), "batch_tokens": 1024}


def _no_serving(setup: Setup) -> str:
    return "" if setup.serving.exists() else "not installed; make benchmark-peers"


def _no_llama(setup: Setup) -> str:
    there = all((setup.peers / file).exists() for file in ("bin/llama-server", "venv/bin/python"))
    return "" if there else f"not built in {setup.peers}; make test-peers (10 minutes)"


def _openblas() -> dict[str, str]:
    """Have an MLX that knows nothing of OpenBLAS use it, where it is installed."""
    name = ctypes.util.find_library("openblas")
    before = os.environ.get("LD_PRELOAD")
    return {"LD_PRELOAD": " ".join(filter(None, (before, name)))} if name else {}


def _log(setup: Setup, name: str) -> Path:
    folder = setup.build / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name.replace(' ', '-')}.log"


_HF, _MLX = ("hf",), ("mlx",)

CONTENDERS: Sequence[Contender] = (
    Contender("penstock", "Penstock", ("hf", "mlx"), "grpc", penstock),
    Contender(
        "to-thread",
        "to_thread(generate), one lock",
        _HF,
        "to_thread",
        options=lambda setup: {"locked": True},
    ),
    Contender(
        "to-thread-unlocked",
        "to_thread(generate), no lock",
        _HF,
        "to_thread",
        options=lambda setup: {"locked": False},
    ),
    Contender(
        "continuous", "transformers' batching, in process", _HF, "continuous", options=_cache
    ),
    Contender("serve", "transformers serve", _HF, "http", transformers_serve, missing=_no_serving),
    Contender("mlx-thread", "to_thread(stream_generate), one lock", _MLX, "mlx_thread"),
    Contender("mlx-server", "mlx_lm.server", _MLX, "http", mlx_lm_server),
    Contender(
        "llama", "llama.cpp's server", ("hf", "mlx"), "http", llama_server, missing=_no_llama
    ),
)
