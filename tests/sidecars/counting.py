"""An engine's backend whose model counts: each step happens when a test allows it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.backend import Outcome, OutOfMemory
from penstock_server.local.batching import BatchEngine
from penstock_server.local.constraint import Constraint
from penstock_server.local.engine import Engine, Loaded, Report
from penstock_server.local.job import MAX_TOKENS, Answer, Finish, Job
from penstock_server.local.recipe import Look
from penstock_server.local.text import PlainDetokenizer, TextStream
from penstock_server.local.tokenizer import Tokenizer

from tests.sidecars.vocabularies import END, chat_tokenizer

PATIENCE = 20.0
WARM_UP = 3
"""The tokens of the engine's warm-up."""
BROKEN, REFUSED, FATAL, LATE = 901, 902, 903, 904
"""Prompts that cannot join: the model fails, refuses, tries to end the thread; LATE joins, and
fails alone at its first token."""


@dataclass
class MadeHere:
    """A recipe whose engines a test makes."""

    make: Callable[[Look, int], Engine]
    seen: Look = field(default_factory=Look)

    def look(self, fetch: bool) -> Look:
        return self.seen


class CountingBackend:
    """After a prompt whose last id is n come n + 1, n + 2, …, a token a step for each job in it.

    It computes only as many steps as `allow` was told to (`allow_all`: any number), so that tests
    decide what happens when. ``capacity`` is how many jobs are in it at a time, ``memory`` how
    many a step has memory for, ``taken_back`` the prompts whose jobs the next step sends away to
    join again, ``failures`` what the next steps raise instead of computing; all may be changed at
    any time. Everything that it computed is in `computed`, and in `steps` by whom: jobs are known
    by the last id of their prompt.
    """

    def __init__(
        self,
        fail_to_load: BaseException | None = None,
        wait_to_load: bool = False,
        capacity: int = 1,
    ) -> None:
        self.capacity = capacity
        self.memory: int | None = None
        self.taken_back: set[int] = set()
        self.failures: list[BaseException] = []
        self.computed: list[int] = []
        self.steps: list[dict[int, int]] = []
        """Of each step since the warm-up, each job's token."""
        self.began: list[int] = []
        self.began_for: list[str] = []
        """The callers of those that began."""
        self.left: list[int] = []
        self.threads: set[int] = set()
        self.unloaded = threading.Event()
        self.may_load = threading.Event()
        self.in_load = threading.Event()
        if not wait_to_load:
            self.may_load.set()
        self._fail_to_load = fail_to_load
        self._jobs: list[Job] = []  # in the order of joining
        self._progress = threading.Condition()  # guards the next three, and tells of all news
        self._allowed = 0
        self._free = False
        self._in_step: Collection[int] = ()

    def allow(self, steps: int) -> None:
        with self._progress:
            self._allowed += steps
            self._progress.notify_all()

    def allow_all(self) -> None:
        with self._progress:
            self._free = True
            self._progress.notify_all()

    def forbid(self) -> None:
        """Compute from now on what a test allows."""
        with self._progress:
            self._free = False

    async def reached(self, tokens: int) -> None:
        """Wait until so many tokens have been computed since the warm-up."""
        await self._until(lambda: len(self.spent) >= tokens)

    async def waits_in_a_step(self, *prompts: int) -> None:
        """Wait until a step with exactly these jobs waits to be allowed."""
        await self._until(lambda: not self._allowed and self._in_step == set(prompts))

    async def waits(self) -> None:
        """Wait until a step waits to be allowed, whoever is in it."""
        await self._until(lambda: not self._allowed and bool(self._in_step))

    async def _until(self, truth: Callable[[], bool]) -> None:
        def wait() -> bool:
            with self._progress:
                return self._progress.wait_for(truth, PATIENCE)

        assert await asyncio.to_thread(wait)

    @property
    def spent(self) -> list[int]:
        """What was computed, without the warm-up."""
        return self.computed[WARM_UP:]

    def written_by(self, prompt: int) -> list[int]:
        """What was computed by the jobs of a prompt."""
        return [step[prompt] for step in self.steps if prompt in step]

    @property
    def inside(self) -> list[int]:
        """Who is in it."""
        return [_name(job) for job in self._jobs]

    def load(self, report: Report) -> Loaded:
        self.threads.add(threading.get_ident())
        report(0.1, "counting to three")
        self.in_load.set()
        assert self.may_load.wait(PATIENCE)
        report(0.5, "two")
        if self._fail_to_load is not None:
            raise self._fail_to_load
        return Loaded(
            tokenizer=Tokenizer(chat_tokenizer()),
            vocabulary=1_000,
            context_length=100,
            end=frozenset({END}),
            max_running=self.capacity,
            device="abacus",
            dtype="int8",
        )

    def join(self, job: Job) -> bool:
        self.threads.add(threading.get_ident())
        assert job not in self._jobs, "it is in it already"
        if self._warm:
            self._misbehave(_name(job))
        if len(self._jobs) >= self.capacity:
            return False
        self.began.append(_name(job))
        self.began_for.append(job.caller)
        self._jobs.append(job)
        return True

    def step(self) -> Iterator[Outcome]:
        self.threads.add(threading.get_ident())
        assert self._jobs, "a step for nobody"
        warm, jobs = self._warm, list(self._jobs)
        if warm:
            self._wait_for_permission()
        if warm and self.failures:
            raise self.failures.pop(0)
        if warm and self.memory is not None and len(jobs) > self.memory:
            raise OutOfMemory(f"memory for {self.memory} only")
        outcomes: list[Outcome] = []
        step: dict[int, int] = {}
        with self._progress:
            for job in jobs:
                name, token = _name(job), job.tokens[-1] + 1
                if name in self.taken_back:
                    self.taken_back.discard(name)
                    self._jobs.remove(job)
                    outcomes.append(Outcome(job))
                elif name == LATE and warm:
                    failure = Failure(v1.ERROR_REASON_ENGINE_FAILURE, "no number")
                    outcomes.append(Outcome(job, failure=failure))
                else:
                    self.computed.append(token)
                    step[name] = token
                    outcomes.append(Outcome(job, token))
            if warm:
                self.steps.append(step)
            self._progress.notify_all()
        return iter(outcomes)

    def leave(self, job: Job) -> None:
        self.threads.add(threading.get_ident())
        self.left.append(_name(job))
        if job in self._jobs:
            self._jobs.remove(job)

    def measure(self, stats: v1.EngineStats) -> None:
        stats.max_running_requests = self.capacity

    def unload(self) -> None:
        self.threads.add(threading.get_ident())
        self.unloaded.set()

    def _wait_for_permission(self) -> None:
        with self._progress:
            self._in_step = {_name(job) for job in self._jobs}
            self._progress.notify_all()
            assert self._progress.wait_for(lambda: self._free or self._allowed, PATIENCE)
            self._in_step = ()
            if not self._free:
                self._allowed -= 1

    @property
    def _warm(self) -> bool:
        return len(self.computed) >= WARM_UP

    def _misbehave(self, prompt: int) -> None:
        if prompt == BROKEN:
            raise ZeroDivisionError("lost count")
        if prompt == REFUSED:
            raise Failure(v1.ERROR_REASON_INVALID_REQUEST, "not a number")
        if prompt == FATAL:
            raise SystemExit(1)


def _name(job: Job) -> int:
    return job.prompt[-1]


def number_text(stop: Sequence[str] = ()) -> TextStream:
    """Text in which each token is its number and a space."""
    return TextStream(PlainDetokenizer(lambda ids: "".join(f"{i} " for i in ids)), stop)


def job(
    prompt: int,
    limit: int = 3,
    *,
    stop: Sequence[str] = (),
    at_limit: Finish = MAX_TOKENS,
    caller: str = "",
    constraint: Constraint | None = None,
) -> Job:
    """A job that counts on from ``prompt``."""
    return Job(
        [7, 7, prompt],
        number_text(stop),
        v1.Sampling(),
        limit=limit,
        at_limit=at_limit,
        caller=caller,
        constraint=constraint,
    )


@asynccontextmanager
async def running(backend: CountingBackend, max_waiting: int = 100) -> AsyncIterator[BatchEngine]:
    """An engine that has loaded, closed afterwards whatever a test has left in it."""
    engine = BatchEngine(backend, "counting", max_waiting=max_waiting)
    try:
        async with asyncio.timeout(PATIENCE):
            await engine.load(lambda progress, stage: None)
            yield engine
    finally:
        backend.may_load.set()
        backend.allow_all()
        await engine.close()


async def whole(answer: Answer) -> tuple[str, int, Finish]:
    """All of an answer: its text, its tokens, its end."""
    async with aclosing(answer):
        chunks = [chunk async for chunk in answer]
    finish = chunks[-1].finish
    assert finish is not None
    return "".join(c.text for c in chunks), sum(c.tokens for c in chunks), finish
