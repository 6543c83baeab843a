"""Routes: a name that stands for several models, and goes on with the next where one fails.

To whoever asks, a route is a provider of one model. Which targets it has is the configuration's,
whether one that failed is asked again its `Circuit`'s. Once the first event of an answer has gone
out, it is that target's answer or nobody's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TypeVar

from penstock import v1

from penstock_server import limits, retry, telemetry
from penstock_server.circuit import Circuit, CircuitPolicy, State
from penstock_server.errors import Failure
from penstock_server.providers import Call, Events, Provider
from penstock_server.retry import NEVER, RetryPolicy
from penstock_server.route_settings import DEFAULT_FALLBACKS, Kind, Strategy

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

Answer = TypeVar("Answer", v1.GenerateResponse, v1.EmbedResponse)


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


_STRATEGIES: Mapping[Strategy, Callable[[Sequence[Target]], Sequence[Target]]] = {
    "ordered": _ordered,
    "weighted": _weighted,
    "least_busy": _least_busy,
}
"""In which order targets are tried."""


class RouteProvider(Provider):
    """Answers by the first of its targets that can.

    ``fallbacks`` are the kinds of failure after which the next target is tried. A target is tried
    once, since another one is nearer than a pause; the last one is tried as often as its provider's
    own retry policy says.

    Example::

        RouteProvider("fast", [Target(openai, "gpt-5-nano"), Target(local, "tiny")])
    """

    def __init__(
        self,
        name: str,
        targets: Sequence[Target],
        strategy: Strategy = "ordered",
        fallbacks: Sequence[Kind] = DEFAULT_FALLBACKS,
    ) -> None:
        super().__init__(name)
        self.targets = targets
        self.order = _STRATEGIES[strategy]
        self.fallbacks = frozenset[v1.ErrorReason.ValueType]().union(
            *(REASONS[kind] for kind in fallbacks)
        )

    def full_name(self, model: str) -> str:
        """A route's name is all there is."""
        return self.name

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        """See `Provider.stream`.

        ``started`` is held back until something follows: until then another target may answer.
        """
        trial = _Trial(self)
        for target, policy in trial.candidates():
            begun = False
            try:
                with target.asked(call):
                    async with aclosing(_events(target, policy, request, call)) as events:
                        async for event in events:
                            if not begun:
                                target.circuit.succeeded()  # others need not wait for the end
                                begun = True
                            if event.HasField("completed"):
                                event.completed.attempts.extend(trial.tried)
                            yield event
                return
            except Failure as failure:
                if begun or not trial.goes_on(failure, target):
                    raise

    async def generate(
        self, model: str, request: v1.GenerateRequest, call: Call
    ) -> v1.GenerateResponse:
        """See `Provider.generate`."""
        return await self._whole(
            lambda t: t.provider.generate(t.model, request, call), request, call
        )

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        """See `Provider.embed`."""
        return await self._whole(lambda t: t.provider.embed(t.model, request, call), request, call)

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        """The route itself, as far as it is known without asking."""
        return [self._describe()]

    async def get_model(self, model: str, call: Call) -> v1.Model:
        """The route: it can do what all of its targets can that answer."""
        described = self._describe()
        found = await asyncio.gather(
            *(target.provider.get_model(target.model, call) for target in self.targets),
            return_exceptions=True,
        )
        models = [one for one in found if isinstance(one, v1.Model)]
        for target, one in zip(self.targets, found, strict=True):
            if isinstance(one, Failure):
                described.state_message += f"{target.name} could not be asked: {one.message}. "
            elif isinstance(one, BaseException):
                raise one
        if models:
            able = set.intersection(*(set(one.capabilities) for one in models))
            described.capabilities.extend(sorted(able))
            described.capability_source = v1.CAPABILITY_SOURCE_PROVIDER
            for limit in ("context_length", "max_output_tokens"):
                known = [getattr(one, limit) for one in models if getattr(one, limit)]
                setattr(described, limit, min(known, default=0))
        return described

    def _describe(self) -> v1.Model:
        usable = any(target.circuit.state is not State.OPEN for target in self.targets)
        return v1.Model(
            name=self.name,
            targets=[target.describe() for target in self.targets],
            state=v1.MODEL_STATE_READY if usable else v1.MODEL_STATE_FAILED,
            state_message="" if usable else "all targets have failed; see their circuits",
        )

    async def _whole(
        self, ask: Callable[[Target], Awaitable[Answer]], request: limits.Request, call: Call
    ) -> Answer:
        trial = _Trial(self)
        for target, policy in trial.candidates():
            try:
                with target.asked(call):
                    once = limits.whole(
                        target.provider.limiter, call, request, partial(ask, target)
                    )
                    answer = await retry.unary(policy, once, call.remaining)
            except Failure as failure:
                if not trial.goes_on(failure, target):
                    raise
            else:
                answer.attempts.extend(trial.tried)
                return answer
        raise AssertionError("candidates end by raising")


class _Trial:
    """One call's way through the targets."""

    def __init__(self, route: RouteProvider) -> None:
        self.tried: list[v1.Attempt] = []
        self._route = route
        self._last: Failure | None = None

    def candidates(self) -> Iterator[tuple[Target, RetryPolicy]]:
        """Who is to be tried next, and how patiently. Raises where nobody is left."""
        order = self._route.order(self._route.targets)
        for place, target in enumerate(order, 1):
            if target.circuit.admit():
                yield target, target.provider.retry if place == len(order) else NEVER
        raise self._exhausted()

    def goes_on(self, failure: Failure, target: Target) -> bool:
        """Note a failure; whether another target may do better."""
        if failure.reason not in self._route.fallbacks:
            return False
        self._last = failure
        self.tried.append(
            v1.Attempt(model=target.name, reason=failure.reason, message=failure.message)
        )
        telemetry.note(tried=",".join(f"{one.model}:{_name(one)}" for one in self.tried))
        return True

    def _exhausted(self) -> Failure:
        """All have failed, or may not be asked. What the last one said is not lost."""
        told = {one.model: f"{_name(one)}: {one.message}" for one in self.tried}
        for target in self._route.targets:
            told.setdefault(target.name, "has failed before and is not asked for now")
        last = self._last or Failure(v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "")
        last.message = f"route {self._route.name!r}: no target could answer: " + "; ".join(
            f"{name} ({why})" for name, why in told.items()
        )
        # When the first of them is asked again.
        last.retry_delay = min(t.circuit.wait for t in self._route.targets) or last.retry_delay
        return last


async def _events(
    target: Target, policy: RetryPolicy, request: v1.GenerateRequest, call: Call
) -> Events:
    """A target's events, ``started`` only once something follows; fails where they just end."""
    provider = target.provider
    ask = limits.stream(
        provider.limiter, call, request, partial(provider.stream, target.model, request, call)
    )
    started: v1.StreamGenerateResponse | None = None
    completed = False
    async with aclosing(retry.stream(policy, ask, call.remaining)) as events:
        async for event in events:
            if event.HasField("started"):
                started = event
                continue
            if started is not None:
                yield started
                started = None
            completed = event.HasField("completed")
            yield event
    if not completed:
        raise Failure(
            v1.ERROR_REASON_PROVIDER_PROTOCOL,
            f"{target.name} ended its answer without completing it; what came before is incomplete",
            model=target.name,
        )


def _name(attempt: v1.Attempt) -> str:
    return v1.ErrorReason.Name(attempt.reason).removeprefix("ERROR_REASON_")
