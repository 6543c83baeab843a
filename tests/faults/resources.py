"""What a process holds: memory, descriptors, threads, children, and asyncio tasks."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ServerProcess, children, eventually

SLACK = {"descriptors": 3, "tasks": 2, "threads": 4, "children": 0}
"""What may be more than before: gRPC's own threads, and connections of the test's that are just
being closed. One forgotten call in a test's hundreds is much more."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds at one moment."""

    memory: float
    """MiB."""
    descriptors: int
    """Without idle connections to the upstream, which are kept for a while on purpose."""
    tasks: int
    threads: int
    children: int

    def row(self, after: Held) -> str:
        return (
            f"{self.memory:.0f}→{after.memory:.0f} MiB, "
            f"fds {self.descriptors}→{after.descriptors}, tasks {self.tasks}→{after.tasks}, "
            f"processes {self.children}→{after.children}"
        )


def resident(pid: int) -> float:
    """MiB of memory in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def tasks(process: ServerProcess) -> int:
    """How many asyncio tasks a gateway of ``watched`` has."""

    def told() -> list[int]:
        return [int(line["tasks"]) for line in process.log if line["logger"] == "watched"]

    before = len(told())
    process.send(signal.SIGUSR1)
    eventually(lambda: len(told()) > before)
    return told()[-1]


def held(process: ServerProcess, idle: Callable[[], int] = lambda: 0) -> Held:
    """What it holds now; ``idle`` counts its connections to the upstream."""
    return Held(
        memory=resident(process.pid),
        descriptors=descriptors(process.pid) - idle(),
        tasks=tasks(process),
        threads=len(list(Path(f"/proc/{process.pid}/task").iterdir())),
        children=len(children(process.pid)),
    )


def returned(
    process: ServerProcess,
    before: Held,
    idle: Callable[[], int] = lambda: 0,
    *,
    memory: float = 40.0,
    patience: float = 60.0,
) -> Held:
    """Wait until it holds no more than before (MiB of ``memory`` more, at most)."""
    give_up = time.monotonic() + patience
    while True:
        after = held(process, idle)
        more = {k: getattr(after, k) - getattr(before, k) for k in SLACK}
        over = {k: n for k, n in more.items() if n > SLACK[k]}
        if not over and after.memory <= before.memory + memory:
            return after
        if time.monotonic() > give_up:
            raise AssertionError(f"not back within {patience} s: {before} → {after}")
        time.sleep(0.2)
