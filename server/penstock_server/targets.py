"""A route's targets: how each of them has done, and in which order they are tried."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from penstock import v1

from penstock_server.circuit import Circuit, CircuitPolicy, State
from penstock_server.errors import Failure
from penstock_server.providers import Call, Provider
from penstock_server.route_settings import Kind, Strategy

REASONS: Mapping[Kind, frozenset[v1.ErrorReason.ValueType]] = {
    "unavailable": frozenset(
        {
            v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
            v1.ERROR_REASON_PROVIDER_TIMEOUT,
            v1.ERROR_REASON_PROVIDER_PROTOCOL,
            v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
            v1.ERROR_REASON_MODEL_NOT_FOUND,
            v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
            v1.ERROR_REASON_SIDECAR_LOST,
            v1.ERROR_REASON_ENGINE_FAILURE,
            v1.ERROR_REASON_SHUTTING_DOWN,
            v1.ERROR_REASON_INTERNAL_ERROR,
        }
    ),
    "rate_limited": frozenset(
        {
            v1.ERROR_REASON_PROVIDER_RATE_LIMITED,
            v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
            v1.ERROR_REASON_OVERLOADED,
            v1.ERROR_REASON_LIMIT_EXCEEDED,
        }
    ),
    "context_length": frozenset(
        {v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED, v1.ERROR_REASON_MESSAGE_TOO_LARGE}
    ),
    "content_refused": frozenset({v1.ERROR_REASON_CONTENT_REFUSED}),
    "unsupported": frozenset({v1.ERROR_REASON_UNSUPPORTED_FEATURE}),
}
"""What each kind of failure is called in the contract."""

_AGAINST_THE_TARGET = REASONS["unavailable"] | REASONS["rate_limited"]
"""Everything else shows that it works: it has looked at the request, and refused it."""

_CIRCUITS: Mapping[State, v1.CircuitState.ValueType] = {
    State.CLOSED: v1.CIRCUIT_STATE_CLOSED,
    State.OPEN: v1.CIRCUIT_STATE_OPEN,
    State.HALF_OPEN: v1.CIRCUIT_STATE_HALF_OPEN,
}


class Target:
    """One of a route's models, and how it has done."""

    def __init__(
        self, provider: Provider, model: str, weight: float = 1.0, circuit: Circuit | None = None
    ) -> None:
        self.provider = provider
        self.model = model
        self.weight = weight
        self.circuit = circuit or Circuit(CircuitPolicy())
        self.outstanding = 0
        """Calls under way."""

    @property
    def name(self) -> str:
        """The full name, "provider/model"."""
        return self.provider.full_name(self.model)

    @contextmanager
    def asked(self, call: Call) -> Iterator[None]:
        """Around a call that its circuit has admitted."""
        self.outstanding += 1
        try:
            yield
        except Failure as failure:
            ours = failure.reason == v1.ERROR_REASON_LIMIT_EXCEEDED  # it has not been asked
            if ours or call.remaining() == 0:  # or the caller's own time was up
                self.circuit.left()
            elif failure.reason in _AGAINST_THE_TARGET:
                limited = failure.reason in REASONS["rate_limited"]
                self.circuit.failed(failure.retry_delay if limited else None)
            else:
                self.circuit.succeeded()
            raise
        except BaseException:  # the caller has gone, or a fault of our own
            self.circuit.left()
            raise
        else:
            self.circuit.succeeded()
        finally:
            self.outstanding -= 1

    def describe(self) -> v1.RouteTarget:
        """For ModelService."""
        told = v1.RouteTarget(
            model=self.name,
            weight=self.weight,
            circuit=_CIRCUITS[self.circuit.state],
            outstanding_calls=self.outstanding,
        )
        if self.circuit.wait:
            told.retry_delay.FromMilliseconds(int(self.circuit.wait * 1000))
        return told


def _ordered(targets: Sequence[Target]) -> Sequence[Target]:
    return targets


def _weighted(targets: Sequence[Target]) -> Sequence[Target]:
    # Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.
    return sorted(targets, key=lambda target: -(random.random() ** (1 / target.weight)))


def _least_busy(targets: Sequence[Target]) -> Sequence[Target]:
    return sorted(targets, key=lambda target: (target.outstanding / target.weight, random.random()))


STRATEGIES: Mapping[Strategy, Callable[[Sequence[Target]], Sequence[Target]]] = {
    "ordered": _ordered,
    "weighted": _weighted,
    "least_busy": _least_busy,
    "affinity": _least_busy,  # what has no beginning, such as texts to embed
}
"""In which order targets are tried."""
