"""Limits: how much a provider, a route and each caller may be asked for, all at the door.

What is too much is refused at once, as LIMIT_EXCEEDED with the time after which it would not be;
nothing waits but in a bounded queue. How many run at a time is a `Bulkhead`'s business; rates are
kept by a ledger (``rates``), which several gateways may share, and their places too (``shared``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.limit_settings import CallLimits
from penstock_server.limits.bulkhead import Bulkhead, Full
from penstock_server.limits.rates import Asked, Ledger, LocalLedger, NoPlace, Refused, Taken
from penstock_server.providers import Call, Events

Request = v1.GenerateRequest | v1.EmbedRequest
Answer = TypeVar("Answer", v1.GenerateResponse, v1.EmbedResponse)

_BYTES_PER_TOKEN = 4
"""A prompt's tokens, until they have been counted: English has about so many bytes to one."""

_FEW = 1_000
"""Below so many limiters, none is forgotten."""

_LONGEST_WAIT = 30.0
"""How many seconds a call waits at most for a place that another gateway's call has."""

_UNKNOWN_WAIT = 1.0
"""What is told where nobody knows after how many seconds there is room."""


class Limiter:
    """The limits of one scope: "caller/reports", "provider/openai", "route/fast".

    Example::

        async with limiter.admitted(call, request) as used:
            response = await provider.generate(model, request, call)
            used.tokens = tokens_of(response.usage)
    """

    def __init__(self, scope: str, settings: CallLimits, ledger: Ledger) -> None:
        self.scope = scope
        self.settings = settings
        self._ledger = ledger
        self.bulkhead = (
            Bulkhead(settings.concurrency, settings.queue) if settings.concurrency else None
        )

    @property
    def busy(self) -> bool:
        """Whether calls run or wait here that are counted nowhere else."""
        bulkhead = self.bulkhead
        return bulkhead is not None and bool(bulkhead.running or bulkhead.waiting)

    @asynccontextmanager
    async def admitted(self, call: Call, request: Request) -> AsyncIterator[Used]:
        """Let a call in, or refuse it with LIMIT_EXCEEDED.

        What is told as used until the end replaces what was thought at the beginning.
        """
        async with self._placed(call):
            asked = self._asked(request)
            taken = await self._take(asked)
            used = Used()
            try:
                yield used
            finally:
                if taken is not None and self.settings.tokens and used.tokens is not None:
                    amounts = [used.tokens if one.kind == "tokens" else one.amount for one in asked]
                    await self._ledger.correct(self.scope, asked, taken, amounts)

    @asynccontextmanager
    async def _placed(self, call: Call) -> AsyncIterator[None]:
        """Around a call that has found its place, first here and then among the gateways."""
        bulkhead = self.bulkhead
        if bulkhead is None:
            yield
            return
        try:
            ticket = await bulkhead.enter(call.caller, call.remaining())
        except Full as full:
            raise self._full(full, full.wait) from None
        try:
            lease = await self._ledger.lease(self.scope, bulkhead.concurrency, self._patience(call))
            try:
                yield
            finally:
                if lease is not None:
                    lease.leave()
        except NoPlace as full:
            raise self._full(full) from None
        finally:
            bulkhead.leave(ticket)

    def _patience(self, call: Call) -> float:
        """How long a call may wait for a place that another gateway's call has, in seconds.

        Who may not wait here, may not there.
        """
        remaining = call.remaining()
        longest = _LONGEST_WAIT if self.settings.queue else 0.0
        return longest if remaining is None else min(longest, remaining)

    def _asked(self, request: Request) -> list[Asked]:
        settings = self.settings
        asked = [Asked("requests", rate, 1) for rate in settings.requests]
        if settings.tokens:
            tokens = estimate(request, settings.reserve)
            asked += [Asked("tokens", rate, min(tokens, rate.amount)) for rate in settings.tokens]
        return asked

    async def _take(self, asked: list[Asked]) -> Taken | None:
        if not asked:
            return None
        outcome = await self._ledger.take(self.scope, asked)
        if isinstance(outcome, Refused):
            raise self._refused(outcome)
        return outcome

    def _refused(self, refused: Refused) -> Failure:
        kind, rate, amount = refused.asked
        needs = f", and this call counts as {amount:,}" if kind == "tokens" else ""
        return Failure(
            v1.ERROR_REASON_LIMIT_EXCEEDED,
            f"the limit of {self.scope} is reached: {rate.amount:,} {kind} in {rate.seconds:g} s"
            f"{needs}; try again in {refused.wait:.1f} s",
            retry_delay=refused.wait,
            scope=self.scope,
            limit=kind,
            allowed=str(rate),
        )

    def _full(self, full: Full | NoPlace, wait: float | None = None) -> Failure:
        return Failure(
            v1.ERROR_REASON_LIMIT_EXCEEDED,
            f"the limit of {self.scope} is reached: {self.settings.concurrency:,} calls at a time, "
            f"and {self.settings.queue:,} waiting ({full}); try again later",
            retry_delay=_UNKNOWN_WAIT if wait is None else wait,
            scope=self.scope,
            limit="concurrency",
            allowed=str(self.settings.concurrency),
        )


class Used:
    """What a call has used, as far as it is known."""

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens: int | None = None
        """Of prompt and answer together; None: what was thought at the beginning stays."""

    def note(self, response: v1.GenerateResponse | v1.EmbedResponse) -> None:
        """It has brought this answer."""
        usage = response.usage
        counted = usage.input_tokens + usage.output_tokens
        if counted:
            self.tokens = counted


def estimate(request: Request, reserve: int) -> int:
    """How many tokens a call may take, before anything has counted them.

    ``reserve`` stands for an answer that the request does not bound.
    """
    if isinstance(request, v1.EmbedRequest):
        return sum(map(len, request.inputs)) // _BYTES_PER_TOKEN + 1
    text = len(request.prompt) + len(request.system)
    for message in request.messages:
        for part in message.parts:
            text += len(part.text)
    return text // _BYTES_PER_TOKEN + 1 + (request.sampling.max_output_tokens or reserve)


def whole(
    limiter: Limiter | None,
    call: Call,
    request: Request,
    ask: Callable[[], Awaitable[Answer]],
) -> Callable[[], Awaitable[Answer]]:
    """``ask`` within a limiter's limits; itself where there are none."""
    if limiter is None:
        return ask

    async def limited() -> Answer:
        async with limiter.admitted(call, request) as used:
            try:
                answer = await ask()
            except Failure:
                used.tokens = 0
                raise
            used.note(answer)
            return answer

    return limited


def stream(
    limiter: Limiter | None, call: Call, request: Request, ask: Callable[[], Events]
) -> Callable[[], Events]:
    """The same for a stream."""
    if limiter is None:
        return ask

    async def limited() -> AsyncGenerator[v1.StreamGenerateResponse, None]:
        begun = False
        async with limiter.admitted(call, request) as used, aclosing(ask()) as events:
            try:
                async for event in events:
                    begun = True
                    if event.HasField("completed"):
                        used.note(event.completed)
                    yield event
            except Failure:
                if not begun:
                    used.tokens = 0
                raise

    return limited


class Limits:
    """The limiters by scope; one whose settings stay keeps its counts when others change.

    Example::

        limits = Limits()
        openai.limiter = limits.of("provider/openai", settings.limits)
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger: Ledger = ledger or LocalLedger()
        self._known: dict[str, Limiter] = {}
        self._most = _FEW

    def of(self, scope: str, settings: CallLimits) -> Limiter | None:
        """The limiter of a scope; None where nothing is limited."""
        if not settings.any:
            self._known.pop(scope, None)
            return None
        known = self._known.get(scope)
        if known is None or known.settings != settings:
            if len(self._known) >= self._most:
                self._forget_idle()
            known = self._known[scope] = Limiter(scope, settings, self.ledger)
        return known

    def _forget_idle(self) -> None:
        """Callers come and go; what they have used is in the ledger."""
        self._known = {scope: one for scope, one in self._known.items() if one.busy}
        self._most = max(_FEW, 2 * len(self._known))
