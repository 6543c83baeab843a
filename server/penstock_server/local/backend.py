"""The seam between the engine and what computes: what a sidecar's backend does, step by step.

Scheduling, queues, threads and text are the engine's (``batching``); tensors are the backend's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local.engine import Loaded, Report
from penstock_server.local.job import Job, Scores


class OutOfMemory(Exception):
    """A step did not fit into memory. It may be tried again with fewer jobs."""


@dataclass(slots=True)
class Outcome:
    """What a step did for one job: a token, a failure, or neither (it has to wait again).

    ``token`` is the next one, with its ``scores`` where the job asks for them. ``failure`` ends
    the job. With neither, the backend had to take back the job's memory: it has left, and is to
    join again; what it has written (``job.tokens``) is computed anew then. The only job that is
    in it cannot wait for anybody: where it has no room, it fails.
    """

    job: Job
    token: int | None = None
    scores: Scores | None = None
    failure: Failure | None = None


class Backend(Protocol):
    """What `BatchEngine` drives. Everything but `measure` is called on the engine's thread.

    A job joins, gets at most one token with each step, and leaves; several are in it at a time,
    as many as the backend says. Nothing that one job does may change what another one gets.
    """

    def load(self, report: Report) -> Loaded:
        """Bring the model into memory. What ``report`` raises ends the loading."""
        ...

    def join(self, job: Job) -> bool:
        """Take in a job: its ``tokens`` are to be continued. Computes nothing yet.

        False where there is no room before another one leaves; where nobody is in it, it must
        take the job or raise. A `Failure` is this job's alone.
        """
        ...

    def step(self) -> Iterable[Outcome]:
        """Compute once; the outcomes of the jobs that have one.

        A prompt may take several steps until its first token, so that it holds up nobody. Raises
        `OutOfMemory` where it does not fit, having changed nothing; what else it raises is taken
        to be everybody's failure, so it had better find out whose it is.
        """
        ...

    def leave(self, job: Job) -> None:
        """Forget a job that joined, finished or not. Does nothing where it is not in it."""
        ...

    def measure(self, stats: v1.EngineStats) -> None:
        """Fill in what the backend knows of itself; from any thread, so: plain numbers only."""
        ...

    def unload(self) -> None:
        """Free everything. Called once, also after a failed `load`."""
        ...


def written(backend: Backend, job: Job, most: int) -> Iterator[Outcome]:
    """Run one job alone for at most ``most`` tokens: a warm-up, or a test.

    Example: ``[outcome.token for outcome in written(backend, job, 3)]``.
    """
    if not backend.join(job):
        raise RuntimeError("a backend has no room for the only job")
    try:
        count = 0
        while count < most:
            for outcome in backend.step():
                if outcome.failure is not None:
                    raise outcome.failure
                if outcome.token is None:
                    raise RuntimeError("a backend has taken back the only job's place")
                count += 1
                yield outcome
                if job.accept(outcome.token, outcome.scores).finish is not None:
                    return
    finally:
        with suppress(Exception):
            backend.leave(job)
