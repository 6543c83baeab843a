"""The one retry policy: what is tried again, how often, and after how long.

Providers, SDKs and transports never retry; whoever stacks retries turns one failure into many. What
a failure means is its provider's to say.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from penstock import v1

from penstock_server import telemetry
from penstock_server.errors import Failure

T = TypeVar("T")

# Failures of a moment. Everything else would fail again in the same way.
PASSING = frozenset(
    {
        v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
        v1.ERROR_REASON_PROVIDER_RATE_LIMITED,
        v1.ERROR_REASON_PROVIDER_TIMEOUT,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently a provider is asked again.

    Pauses grow exponentially, and are drawn from their upper half so that callers that failed
    together do not come back together (AWS Architecture Blog, "Exponential Backoff And Jitter",
    "equal jitter"). Where the provider says how long to wait, that counts instead.

    Example::

        RetryPolicy(attempts=3).pause(1, failure, remaining=10.0)  # seconds, or None: give up
    """

    attempts: int = 3
    """How often a call is tried in all; 1: never again."""
    first_pause: float = 0.5
    """The longest pause after the first failure, in seconds; doubled after each further one."""
    max_pause: float = 8.0
    """The longest pause of our own choosing, in seconds."""
    max_retry_after: float = 30.0
    """The longest pause that a provider may ask for, in seconds. Beyond it, the caller is told."""

    def pause(self, attempt: int, failure: Failure, remaining: float | None) -> float | None:
        """Seconds to wait after the ``attempt``-th failure; None where it is not tried again.

        ``remaining`` are the seconds until the caller's deadline: who cannot be answered within
        it is told at once.
        """
        passing = failure.reason in PASSING if failure.passing is None else failure.passing
        if attempt >= self.attempts or not passing:
            return None
        asked = failure.retry_delay
        if asked is None:
            longest = min(self.first_pause * 2.0 ** (attempt - 1), self.max_pause)
            pause = random.uniform(longest / 2, longest)
        elif asked > self.max_retry_after:
            return None
        else:
            # Never earlier than asked; a little later, each caller by something else.
            pause = asked + random.uniform(0, min(self.first_pause, asked * 0.1))
        return None if remaining is not None and pause >= remaining else pause


NEVER = RetryPolicy(attempts=1)
"""For providers that know better themselves, such as sidecars."""


async def unary(
    policy: RetryPolicy, ask: Callable[[], Awaitable[T]], remaining: Callable[[], float | None]
) -> T:
    """What ``ask`` answers, asked again as the policy says.

    ``remaining`` tells the seconds until the caller's deadline. A failure that is raised in the end
    says in its metadata how many attempts there were.
    """
    attempt = 1
    while True:
        try:
            answer = await ask()
        except Failure as failure:
            await asyncio.sleep(_pause(policy, attempt, failure, remaining()))
        else:
            if attempt > 1:
                telemetry.note(attempts=attempt)
            return answer
        attempt += 1


async def stream(
    policy: RetryPolicy,
    ask: Callable[[], AsyncGenerator[T, None]],
    remaining: Callable[[], float | None],
) -> AsyncGenerator[T, None]:
    """The same for a stream: never again once its first event has gone out."""
    attempt = 1
    begun = False
    while True:
        try:
            async with aclosing(ask()) as events:
                async for event in events:
                    if not begun:
                        begun = True
                        if attempt > 1:
                            telemetry.note(attempts=attempt)
                    yield event
            return
        except Failure as failure:
            if begun:
                raise
            pause = _pause(policy, attempt, failure, remaining())
        await asyncio.sleep(pause)
        attempt += 1


def _pause(policy: RetryPolicy, attempt: int, failure: Failure, remaining: float | None) -> float:
    """How long to wait; raises the failure where there is no use in it."""
    pause = policy.pause(attempt, failure, remaining)
    if pause is None:
        if attempt > 1:
            telemetry.note(attempts=attempt)
        if policy is not NEVER:  # whoever gets it is told that it has been tried often enough
            failure.metadata["attempts"] = str(attempt)
        raise failure
    telemetry.retried(attempt, failure.reason_name, pause)
    return pause
