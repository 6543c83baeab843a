"""An engine's backend whose model counts: tokens are computed one by one, when a test allows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.engine import Engine, Loaded, Report
from penstock_server.local.job import MAX_TOKENS, Finish, Job
from penstock_server.local.recipe import Look
from penstock_server.local.serial import Emit
from penstock_server.local.text import PlainDetokenizer, TextStream
from penstock_server.local.tokenizer import Tokenizer

from tests.sidecars.vocabularies import END, chat_tokenizer

PATIENCE = 20.0
WARM_UP = 3
"""The tokens of the engine's warm-up."""
BROKEN, REFUSED, FATAL, SILENT = 901, 902, 903, 904
"""Prompts that make the model fail, refuse, try to end the thread, and say nothing."""


@dataclass
class MadeHere:
    """A recipe whose engines a test makes."""

    make: Callable[[Look, int], Engine]
    seen: Look = field(default_factory=Look)

    def look(self, fetch: bool) -> Look:
        return self.seen


class CountingBackend:
    """After a prompt whose last id is n come n + 1, n + 2, …

    It computes only as many tokens as `allow` was told to (`allow_all`: any number), so that
    tests decide what happens when. Everything that it computed is in `computed`.
    """

    def __init__(self, fail_to_load: BaseException | None = None, wait_to_load: bool = False):
        self.computed: list[int] = []
        self.began: list[int] = []
        self.threads: set[int] = set()
        self.unloaded = threading.Event()
        self.may_load = threading.Event()
        self.in_load = threading.Event()
        if not wait_to_load:
            self.may_load.set()
        self._fail_to_load = fail_to_load
        self._steps = threading.Semaphore(0)
        self._progress = threading.Condition()
        self._free = False

    def allow(self, tokens: int) -> None:
        self._steps.release(tokens)

    def allow_all(self) -> None:
        self._free = True
        self._steps.release()

    async def reached(self, tokens: int) -> None:
        """Wait until so many tokens have been computed since the warm-up."""

        def wait() -> bool:
            with self._progress:
                return self._progress.wait_for(lambda: len(self.spent) >= tokens, PATIENCE)

        assert await asyncio.to_thread(wait)

    @property
    def spent(self) -> list[int]:
        """What was computed, without the warm-up."""
        return self.computed[WARM_UP:]

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
            device="abacus",
            dtype="int8",
        )

    def decode(self, job: Job, emit: Emit) -> None:
        self.threads.add(threading.get_ident())
        warming_up = not self.began
        self.began.append(job.prompt[-1])
        if not warming_up:
            self._misbehave(job.prompt[-1])
        token = job.prompt[-1]
        while True:
            if not warming_up and not self._free:
                assert self._steps.acquire(timeout=PATIENCE)
            token += 1
            with self._progress:
                self.computed.append(token)
                self._progress.notify_all()
            if emit(token):
                return

    def _misbehave(self, prompt: int) -> None:
        if prompt == BROKEN:
            raise ZeroDivisionError("lost count")
        if prompt == REFUSED:
            raise Failure(v1.ERROR_REASON_INVALID_REQUEST, "not a number")
        if prompt == FATAL:
            raise SystemExit(1)

    def unload(self) -> None:
        self.threads.add(threading.get_ident())
        self.unloaded.set()


class SilentBackend(CountingBackend):
    """Stops by itself, without a reason, after the first token."""

    def decode(self, job: Job, emit: Emit) -> None:
        self.began.append(job.prompt[-1])
        emit(job.prompt[-1] + 1)


def number_text(stop: Sequence[str] = ()) -> TextStream:
    """Text in which each token is its number and a space."""
    return TextStream(PlainDetokenizer(lambda ids: "".join(f"{i} " for i in ids)), stop)


def job(
    prompt: int, limit: int = 3, *, stop: Sequence[str] = (), at_limit: Finish = MAX_TOKENS
) -> Job:
    """A job that counts on from ``prompt``."""
    return Job([7, 7, prompt], number_text(stop), v1.Sampling(), limit=limit, at_limit=at_limit)
