"""A gateway that is put on trial: under load, with its resources looked at, a row for each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.load import Load
from tests.faults.resources import Held, held, returned
from tests.faults.upstream import FaultyUpstream
from tests.support.processes import ServerProcess, children, local_tiny

rows: list[tuple[str, ...]] = []
HEADER = ("fault", "callers' view", "normal after", "wrong", "gateway, before → after")


SILENCE = 5.0
"""After how many seconds without an answer the gateway of these tests gives its sidecar up."""


UNREAD = 4.0
"""After how many seconds it ends a stream that nobody reads."""


@dataclass
class Trial:
    """One fault under load: when it began and ended, and what came of it."""

    load: Load
    began: float = 0.0
    ended: float = 0.0
    normal: float = 0.0
    seen: Counter[str] = field(default_factory=Counter)
    note: str = ""

    def begins(self) -> None:
        self.began = time.monotonic()

    def ends(self) -> None:
        self.ended = time.monotonic()

    def statuses(self, model: str = "") -> Counter[str]:
        """What became of the calls since the fault began."""
        return self.load.statuses(self.began, time.monotonic(), model)


class House:
    """A gateway with a sidecar of its own and a provider over HTTP."""

    def __init__(self, process: ServerProcess, upstream: FaultyUpstream, slow: Path) -> None:
        self.process, self.upstream = process, upstream
        self.slow = slow
        """While this file is there, no sidecar's start gets on."""

    @property
    def sidecar(self) -> int:
        """The sidecar's process id."""
        (pid,) = children(self.process.pid)
        return pid

    def idle(self) -> int:
        """Connections to the provider that are kept for the next call."""
        return len(self.upstream.connections)

    def held(self) -> Held:
        return held(self.process, self.idle)

    @contextmanager
    def trial(
        self, fault: str, *, memory: float = 40.0, patience: float = 40.0, **load: Any
    ) -> Iterator[Trial]:
        """Load before, during and after what the caller does; then everything is looked at.

        The caller says when the fault `begins` and, where it is not over by itself, `ends`.
        """
        before = self.held()
        with Load(self.process.address, **load) as running:
            trial = Trial(running)
            yield trial
            trial.normal = running.normal_again(trial.ended or trial.began, patience=patience)
            trial.seen = running.statuses(trial.began, time.monotonic())
        twice = {n: times for n, times in self.upstream.finished.items() if times > 1}
        assert not running.wrong, running.wrong
        assert not twice, "answered more than once"
        after = returned(self.process, before, self.idle, memory=memory)
        record(fault, trial.seen, trial.normal, trial.note, before.row(after))


def record(fault: str, seen: Counter[str], normal: float, note: str, resources: str) -> None:
    """A row of the table, for a fault with no answer lost, doubled or mixed up."""
    view = ", ".join(f"{count} {status}" for status, count in seen.most_common())
    rows.append((fault, view + (f" ({note})" if note else ""), f"{normal:.1f} s", "0", resources))


def settings(upstream: FaultyUpstream, *local: str) -> list[str]:
    """A gateway's flags: the embedded model, held to little patience, and the provider."""
    hosted = {
        "kind": "openai-compatible",
        "base_url": upstream.url,
        "connect_timeout": 1,
        "first_event_timeout": 2,
        "idle_timeout": 2,
        "retry.attempts": 2,
        "retry.first_pause": 0.1,
    }
    flags = [f"providers.up.{key}={value}" for key, value in hosted.items()]
    patient = {**hosted, "first_event_timeout": 60}
    flags += [f"providers.patient.{key}={value}" for key, value in patient.items()]
    flags += ["shutdown.notice=0.1", f"limits.unread_timeout={UNREAD}"]
    # One thread: two would wait for each other wherever the load takes a core.
    return [*local_tiny("threads=1", *local), *(word for flag in flags for word in ("--set", flag))]
