"""One call's way through a route's targets: who is next, and what is told where nobody is left."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from penstock import v1

from penstock_server import telemetry
from penstock_server.errors import Failure
from penstock_server.retry import NEVER, RetryPolicy
from penstock_server.targets import Target


class Trial:
    """The targets that one call may try, in order, and what was tried.

    ``fallbacks`` are the reasons after which another target is tried.

    Example::

        trial = Trial("fast", targets, fallbacks)
        for target, policy in trial.candidates():
            try: return await ask(target, policy)
            except Failure as failure:
                if not trial.goes_on(failure, target): raise
    """

    def __init__(
        self,
        route: str,
        order: Sequence[Target],
        fallbacks: Collection[v1.ErrorReason.ValueType],
    ) -> None:
        self.tried: list[v1.Attempt] = []
        self._route = route
        self._order = order
        self._left = iter(order)
        self._shut: list[Target] = []
        self._fallbacks = fallbacks
        self._last: Failure | None = None

    def candidates(self) -> Iterator[tuple[Target, RetryPolicy]]:
        """Who is to be tried next, and how patiently. Raises where nobody is left."""
        while True:
            yield self.demand()

    def demand(self) -> tuple[Target, RetryPolicy]:
        """The next one; raises where nobody is left."""
        found = self.next() or self._last_resort()
        if found is None:
            raise self._exhausted()
        return found

    def next(self) -> tuple[Target, RetryPolicy] | None:
        """The next one that may be asked; None where nobody is left."""
        for target in self._left:
            if target.circuit.admit():
                return target, target.provider.retry if target is self._order[-1] else NEVER
            self._shut.append(target)
        return None

    def _last_resort(self) -> tuple[Target, RetryPolicy] | None:
        """One that is left alone for now: better than nobody, and it may be back already.

        Where every target has failed, some outage before them is as likely as that all of them are
        broken, and waiting for the cooldown would make it last longer.
        """
        for target in sorted(self._shut, key=lambda one: one.circuit.wait):
            self._shut.remove(target)
            if target.circuit.admit_early():
                return target, NEVER
        return None

    def goes_on(self, failure: Failure, target: Target) -> bool:
        """Note a failure; whether another target may do better."""
        if failure.reason not in self._fallbacks:
            return False
        self.failed(failure, target)
        return True

    def failed(self, failure: Failure, target: Target) -> None:
        """Note a failure."""
        self._last = failure
        self._note(v1.Attempt(model=target.name, reason=failure.reason, message=failure.message))

    def hedged(self, target: Target, seconds: float) -> None:
        """Note a target that was asked beside the one that answered."""
        message = f"another one was quicker; this one was let go after {seconds:.2f} s"
        self._note(v1.Attempt(model=target.name, hedged=True, message=message))

    def _note(self, attempt: v1.Attempt) -> None:
        self.tried.append(attempt)
        telemetry.tried(self._route, attempt.model, _name(attempt))

    def _exhausted(self) -> Failure:
        """All have failed, or may not be asked. What the last one said is not lost."""
        told = {one.model: f"{_name(one)}: {one.message}" for one in self.tried}
        for target in self._order:
            told.setdefault(target.name, "has failed before and is not asked for now")
        last = self._last or Failure(v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "")
        last.message = f"route {self._route!r}: no target could answer: " + "; ".join(
            f"{name} ({why})" for name, why in told.items()
        )
        # When the first of them is asked again.
        last.retry_delay = min(t.circuit.wait for t in self._order) or last.retry_delay
        return last


def _name(attempt: v1.Attempt) -> str:
    if attempt.hedged:
        return "HEDGED"
    return v1.ErrorReason.Name(attempt.reason).removeprefix("ERROR_REASON_")
