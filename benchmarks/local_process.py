"""Processes under test: started, watched until ready, and what /proc knows of them (Linux).

Their output goes to a file, as a service's would; where one fails, its last lines are shown.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE = 180.0
"""Seconds after which what should be ready has failed."""

_TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A contender did not do what it should; the message has its last lines."""


class Process:
    """A process with all that it starts."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        piped: bool = False,
    ) -> None:
        self.name = name
        self._log = log
        # No keys: providers beside the one under test would come with them.
        clean = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
        clean |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        with log.open("wb") as opened:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else opened,
                stderr=opened,
                env={**clean, **(env or {})},
                text=True,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def lines(self) -> list[str]:
        """What it has written so far."""
        return self._log.read_text(errors="replace").splitlines()

    def failed(self, why: str) -> Failed:
        """The exception for it."""
        words = "\n".join(f"    {line[:300]}" for line in self.lines()[-15:])
        return Failed(f"{self.name}: {why}; its last lines ({self._log}):\n{words}")

    def until(self, ready: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Wait for something that is true, and return it."""
        deadline = time.monotonic() + patience
        while not (found := ready()):
            if self._popen.poll() is not None:
                raise self.failed(f"ended with code {self._popen.returncode}")
            if time.monotonic() > deadline:
                raise self.failed(f"not ready after {patience:.0f} s")
            time.sleep(0.05)
        return found

    def tell(self, what: object) -> None:
        """Write a line of JSON to its stdin."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(what) + "\n")
        self._popen.stdin.flush()

    def hear(self) -> Any:
        """Read a line of JSON from its stdout."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            self._popen.wait(PATIENCE)
            raise self.failed(f"ended with code {self._popen.returncode}")
        return json.loads(line)

    def stop(self) -> None:
        """End it, and everything that it started."""
        everything = tree(self.pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                self._popen.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(15)
                break
        for pid in everything[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def log_message(process: Process, message: str) -> dict[str, Any] | None:
    """The first line of a JSON log with this message that is the process's own."""
    for line in process.lines():
        with suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            if entry["message"] == message and "sidecar" not in entry:
                return dict(entry)
    return None


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def tree(pid: int) -> list[int]:
    """A process and all that it has started, and these in turn."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu(pids: Iterable[int]) -> float:
    """Seconds of CPU that processes have used so far, all threads, ended ones too."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return ticks / _TICK


def machine_cpu() -> float:
    """Seconds of CPU that all processes together have used so far, and the kernel itself."""
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICK


class Memory(NamedTuple):
    """MiB: the most that was resident since `forget_peak`, and now, shared pages divided."""

    peak: float
    proportional: float


def forget_peak(pids: Iterable[int]) -> None:
    """Have the kernel count the most memory from now on."""
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory(pids: Iterable[int]) -> Memory:
    """What processes need, added up."""
    peak = proportional = 0
    for pid in pids:
        with suppress(OSError):
            peak += _kilobytes(f"/proc/{pid}/status", "VmHWM:")
            proportional += _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:")
    return Memory(peak / 1024, proportional / 1024)


def _kilobytes(file: str, name: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def require_linux() -> None:
    """Everything here is read from /proc."""
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("this needs Linux: CPU and memory of the contenders are read from /proc")
