"""Servers as a user runs them: processes of their own, listened to by their JSON log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"

PATIENCE = 60.0
"""Seconds after which a process that does not do what it should has failed; never waited for."""


class ServerProcess:
    """A gateway or sidecar in a process of its own, on a free port.

    Everything it logs is in `log`, a dict for each line. `wait_for` waits for a line.
    """

    def __init__(
        self,
        module: str,
        *args: str,
        env: dict[str, str] | None = None,
        listen: str = "",
        cwd: Path | None = None,
    ) -> None:
        command = [sys.executable, "-m", module, "--listen", listen or "127.0.0.1:0"]
        command += ["--log-format", "json", *args]
        # No providers beside those that a test names: keys in the environment would add some.
        clean = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
        self.log: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**clean, **(env or {})},
            cwd=cwd,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def address(self) -> str:
        return str(self.wait_for(lambda line: line["message"] == "listening")["address"])

    def ready(self) -> ServerProcess:
        self.wait_for(lambda line: line["message"] == "ready" and "sidecar" not in line)
        return self

    def wait_for(
        self, wanted: Callable[[dict[str, Any]], bool], patience: float = PATIENCE
    ) -> dict[str, Any]:
        """The first log line that is wanted, past or to come."""
        deadline = time.monotonic() + patience
        with self._news:
            seen = 0
            while True:
                for line in self.log[seen:]:
                    if wanted(line):
                        return line
                seen = len(self.log)
                left = deadline - time.monotonic()
                if left <= 0 or not self._news.wait(min(left, 1.0)):
                    if self._process.poll() is not None and not self._reader.is_alive():
                        raise AssertionError(f"the server ended: {self.log}")
                    if left <= 0:
                        raise AssertionError(f"waited {patience} s in vain: {self.log[-20:]}")

    def calls(self) -> list[dict[str, Any]]:
        """The log lines of calls."""
        return [line for line in self.log if line["logger"] == "penstock.calls"]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def stop(self) -> int:
        """End it as an operator would; its exit code."""
        if self._process.poll() is None:
            self.send(signal.SIGTERM)
        return self.wait()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._process.poll() is None:
            try:
                self.send(signal.SIGTERM)
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for raw in self._process.stderr:
            text = raw.decode("utf-8", "replace").rstrip()
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                line = {"message": text, "logger": "raw", "level": "raw"}
            with self._news:
                self.log.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


def gateway(*args: str, **options: Any) -> ServerProcess:
    """A gateway; without further settings it serves the embedded model alone."""
    own = [] if any("providers" in arg or arg == "--config" for arg in args) else local_tiny()
    return ServerProcess("penstock_server", *own, "--set", "shutdown.notice=0.1", *args, **options)


def sidecar(*args: str, **options: Any) -> ServerProcess:
    """An HF sidecar with the embedded model."""
    own = [] if "--model" in args else ["--model", f"tiny={TINY}"]
    return ServerProcess("penstock_hf", *own, "--set", "shutdown.notice=0.1", *args, **options)


def local_tiny(*settings: str) -> Sequence[str]:
    """Flags that configure the provider "local" with the embedded model."""
    values = ["kind=sidecar", f"models.tiny={TINY}", *settings]
    return [arg for value in values for arg in ("--set", f"providers.local.{value}")]


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(truth: Callable[[], bool], patience: float = 20.0) -> float:
    """Wait until something is true, and tell how many seconds it took."""
    started = time.monotonic()
    while not truth():
        if time.monotonic() - started > patience:
            raise AssertionError(f"not true within {patience} s")
        time.sleep(0.005)
    return time.monotonic() - started


async def until(truth: Callable[[], object], patience: float = 20.0) -> None:
    """Wait on the event loop until something is true."""
    async with asyncio.timeout(patience):
        while not truth():  # noqa: ASYNC110 # what is waited for is another process's doing
            await asyncio.sleep(0.005)
