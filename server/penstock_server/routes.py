"""Routes: a name that stands for several models, and goes on with the next where one fails.

To whoever asks, a route is a provider of one model. Which targets it has is the configuration's,
whether one that failed is asked again its `Circuit`'s. Once the first event of an answer has gone
out, it is that target's answer or nobody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Literal, TypeVar, get_args

from penstock import v1

from penstock_server import limits, retry
from penstock_server.circuit import State
from penstock_server.errors import Failure
from penstock_server.hedging import Hedge, HedgePolicy
from penstock_server.providers import Call, Events, Provider
from penstock_server.providers.affinity import Affinity, beginning
from penstock_server.retry import RetryPolicy
from penstock_server.route_settings import DEFAULT_FALLBACKS, Kind, Strategy
from penstock_server.targets import REASONS, STRATEGIES, Target
from penstock_server.trial import Trial

Answer = TypeVar("Answer", v1.GenerateResponse, v1.EmbedResponse)

_Whole = Literal["generate", "embed"]
_WHOLE: tuple[_Whole, ...] = get_args(_Whole)


class RouteProvider(Provider):
    """Answers by the first of its targets that can.

    ``fallbacks`` are the kinds of failure after which the next target is tried. A target is tried
    once, since another one is nearer than a pause; the last one is tried as often as its provider's
    own retry policy says. ``hedge``: calls that are answered whole may be asked of two at a time.

    Example::

        RouteProvider("fast", [Target(openai, "gpt-5-nano"), Target(local, "tiny")])
    """

    def __init__(
        self,
        name: str,
        targets: Sequence[Target],
        strategy: Strategy = "ordered",
        fallbacks: Sequence[Kind] = DEFAULT_FALLBACKS,
        hedge: HedgePolicy | None = None,
    ) -> None:
        super().__init__(name)
        self.targets = targets
        self.order = STRATEGIES[strategy]
        self._affinity: Affinity[Target] | None = None
        if strategy == "affinity":
            self._affinity = Affinity(name=lambda t: t.name, weight=lambda t: t.weight)
        self.fallbacks = frozenset[v1.ErrorReason.ValueType]().union(
            *(REASONS[kind] for kind in fallbacks)
        )
        # Embedding takes another time than writing.
        self._hedges = None if hedge is None else {kind: Hedge(hedge) for kind in _WHOLE}

    def full_name(self, model: str) -> str:
        """A route's name is all there is."""
        return self.name

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        """See `Provider.stream`.

        ``started`` is held back until something follows: until then another target may answer.
        """
        trial = self._trial(request)
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
            "generate", lambda t: t.provider.generate(t.model, request, call), request, call
        )

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        """See `Provider.embed`."""
        return await self._whole(
            "embed", lambda t: t.provider.embed(t.model, request, call), request, call
        )

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

    def _trial(self, request: limits.Request) -> Trial:
        if self._affinity is not None and isinstance(request, v1.GenerateRequest):
            shut = [t for t in self.targets if t.circuit.state is State.OPEN]
            usable = [t for t in self.targets if t not in shut]
            best = self._affinity.order(beginning(request), usable)
            return Trial(self.name, [*best, *shut], self.fallbacks)
        return Trial(self.name, self.order(self.targets), self.fallbacks)

    async def _whole(
        self,
        kind: _Whole,
        ask: Callable[[Target], Awaitable[Answer]],
        request: limits.Request,
        call: Call,
    ) -> Answer:
        async def asked(target: Target, policy: RetryPolicy) -> Answer:
            with target.asked(call):
                limiter = target.provider.limiter
                once = limits.whole(limiter, call, request, partial(ask, target))
                return await retry.unary(policy, once, call.remaining)

        trial = self._trial(request)
        if self._hedges is not None:
            return await self._hedges[kind].race(trial, asked)
        for target, policy in trial.candidates():
            try:
                answer = await asked(target, policy)
            except Failure as failure:
                if not trial.goes_on(failure, target):
                    raise
            else:
                answer.attempts.extend(trial.tried)
                return answer
        raise AssertionError("candidates end by raising")


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


__all__ = ["REASONS", "RouteProvider", "Target"]
