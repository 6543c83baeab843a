"""Whether what failed is asked again: a circuit breaker. Pure.

Which failures speak against a target is for whoever asks it to say.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass


class State(enum.Enum):
    """The states, by their usual names (M. Nygard, "Release It!", 2007)."""

    CLOSED = "closed"
    """It is asked."""
    OPEN = "open"
    """It is not."""
    HALF_OPEN = "half-open"
    """One call may try it; what becomes of that decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitPolicy:
    """When a circuit opens, and for how long."""

    failures: int = 5
    """It opens after so many failures in a row."""
    cooldown: float = 10.0
    """For so many seconds; twice as many each time that its trial fails."""
    max_cooldown: float = 300.0
    """But never for more than so many, whatever a target asks for."""


class Circuit:
    """The breaker of one target.

    Each call that `admit` or `admit_early` lets through ends with one of `succeeded`, `failed` and
    `left`. Everything belongs to one event loop; ``clock`` tells seconds.

    Example::

        if circuit.admit():
            try: answer = await ask()
            except Failure as failure: circuit.failed(failure.retry_delay)
            else: circuit.succeeded()
    """

    def __init__(self, policy: CircuitPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._failures = 0  # in a row
        self._openings = 0  # in a row
        self._opens_until = 0.0
        self._open = False
        self._trying = False
        self._early = False  # the trial under way came before its time
        self._asked = False  # it is open because the target wants to be left alone

    @property
    def state(self) -> State:
        """The state now."""
        if not self._open:
            return State.CLOSED
        return State.OPEN if self.wait > 0 else State.HALF_OPEN

    @property
    def wait(self) -> float:
        """Seconds until the next trial; 0 where it may be asked, or is being tried, now."""
        return max(0.0, self._opens_until - self._clock()) if self._open else 0.0

    def admit(self) -> bool:
        """Whether a call may be made now."""
        if not self._open:
            return True
        if self.wait > 0 or self._trying:
            return False
        self._trying = True
        return True

    def admit_early(self) -> bool:
        """Whether a call may be made although it is open, for one that has nowhere else to go.

        One at a time, and never where the target itself asked for a pause. A trial that comes early
        and fails does not lengthen the wait.
        """
        if not self._open or self._asked or self._trying:
            return False
        self._trying = self._early = True
        return True

    def succeeded(self) -> None:
        """The target does its work.

        Calls that were under way when the circuit opened say nothing: they tell how it was before.
        """
        if self._open and not self._trying:
            return
        self._failures = self._openings = 0
        self._open = self._trying = self._early = self._asked = False

    def failed(self, retry_delay: float | None = None) -> None:
        """The target failed. Where it says when to come back, it is left alone until then."""
        self._failures += 1
        trial = self._trying and not self._early
        self._trying = self._early = False
        if retry_delay is not None:
            self._asked = True
            self._open_for(retry_delay)
        elif trial or (not self._open and self._failures >= self._policy.failures):
            self._open_for(self._policy.cooldown * 2.0**self._openings)
            self._openings += 1
            self._asked = False

    def left(self) -> None:
        """The call ended in a way that says nothing of the target, as when its caller went.

        What was told of the call before holds.
        """
        self._trying = self._early = False

    def _open_for(self, seconds: float) -> None:
        self._open = True
        until = self._clock() + min(seconds, self._policy.max_cooldown)
        self._opens_until = max(self._opens_until, until)
