"""Hedging: a call that takes long is asked of a second target, too, and the first answer counts.

The terms are those of gRPC (proposal A6) and of J. Dean and L. Barroso, "The Tail at Scale",
Communications of the ACM 56(2), 2013. For calls that are answered whole; never for streams.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.retry import NEVER, RetryPolicy
from penstock_server.targets import Target
from penstock_server.trial import Trial

Answer = TypeVar("Answer", v1.GenerateResponse, v1.EmbedResponse)

Ask = Callable[[Target, RetryPolicy], Coroutine[Any, Any, Answer]]

# How many times a quantile is taken of, and how many there have to be first.
_SEEN = 200
_ENOUGH = 20

# Hedges that calls without one may save up for a slow moment.
_MOST_SAVED = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePolicy:
    """When a call is asked of a second target."""

    after: float | None = None
    """After so many seconds without an answer."""
    quantile: float | None = None
    """Or after the time within which this share of the latest answers came, such as 0.95."""
    share: float = 0.1
    """For no more than this share of all calls (and one): who is slow because there is too much to
    do is not given twice as much."""


class Hedge:
    """Knows for one route, and one kind of call, how long answers take and what hedges are left.

    Everything belongs to one event loop.

    Example::

        hedge = Hedge(HedgePolicy(quantile=0.95))
        answer = await hedge.race(trial, ask)
    """

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._times: deque[float] = deque(maxlen=_SEEN)
        self._saved = 1.0

    @property
    def delay(self) -> float | None:
        """Seconds until a call is asked twice; None while too little is known."""
        if self._policy.quantile is None:
            return self._policy.after
        if len(self._times) < _ENOUGH:
            return None
        ordered = sorted(self._times)
        return ordered[min(int(len(ordered) * self._policy.quantile), len(ordered) - 1)]

    async def race(self, trial: Trial, ask: Ask[Answer]) -> Answer:
        """The first answer of a trial's targets; who else was asked is let go.

        A target that fails is followed by the next one, as without hedging; a call is asked twice
        at the same time only once. The second one is asked without the provider's own retries.
        """
        self._saved = min(self._saved + self._policy.share, _MOST_SAVED)
        running: dict[asyncio.Task[Answer], tuple[Target, float]] = {}

        def begin(target: Target, policy: RetryPolicy) -> None:
            running[asyncio.create_task(ask(target, policy))] = (target, time.monotonic())

        delay = self.delay
        second: Target | None = None
        try:
            begin(*trial.demand())
            while True:
                done, _ = await asyncio.wait(
                    running, timeout=delay, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    delay = None
                    second = self._second(trial)
                    if second is not None:
                        begin(second, NEVER)
                # Where several came at the same time, one that answers.
                for task in sorted(done, key=_failed):
                    target, began = running.pop(task)
                    try:
                        answer = task.result()
                    except Failure as failure:
                        if target is second and running:
                            trial.failed(failure, target)  # it is a chance more, not a risk
                        elif not trial.goes_on(failure, target):
                            raise
                        continue
                    self._answered(trial, began, running.values())
                    answer.attempts.extend(trial.tried)
                    return answer
                if not running:
                    begin(*trial.demand())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _second(self, trial: Trial) -> Target | None:
        if self._saved < 1:
            return None
        found = trial.next()
        if found is None:
            return None
        self._saved -= 1
        return found[0]

    def _answered(
        self, trial: Trial, began: float, others: Collection[tuple[Target, float]]
    ) -> None:
        now = time.monotonic()
        self._times.append(now - began)
        for target, its_beginning in others:
            trial.hedged(target, now - its_beginning)
            self._times.append(now - its_beginning)  # it takes longer; how long, nobody knows


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None
