"""Limits that several gateways share: the same books as in ``rates``, kept in Redis.

One script looks and counts at once, so what is let through is exact however many gateways there
are. Time is Redis' own. A scope's keys have its name in braces, so that a cluster keeps them
together. Keys expire when they say nothing any more, and so do the places that calls hold, unless
their gateway says again and again that it is there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.limit_settings import RedisSettings
from penstock_server.limits import scripts
from penstock_server.limits.rates import Asked, LocalLedger, NoPlace, Refused, Taken
from penstock_server.telemetry import log

_HELD = 15.0
"""For how many seconds a place stays taken after its gateway has last been heard of."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
"""Between two looks for a free place, in seconds; doubled each time."""

# While Redis does not answer, calls do not each wait for it: one asks again after so many seconds.
_PAUSE = 1.0


class _TakenAlone(Taken):
    """What was counted here, while Redis did not answer."""


class SharedLedger:
    """Counts in Redis, together with everybody who has the same ``settings``.

    Where Redis does not answer in time, ``settings.when_lost`` says what becomes of the calls: they
    are counted here alone, or refused with LIMIT_EXCEEDED.
    """

    def __init__(self, settings: RedisSettings) -> None:
        try:
            from redis import asyncio as redis
            from redis.exceptions import RedisError
        except ImportError:
            raise ValueError(
                "redis.url needs the redis client: pip install 'penstock-server[redis]'"
            ) from None
        self._settings = settings
        self._errors = (RedisError, OSError, TimeoutError)
        self._redis: Any = redis.Redis.from_url(
            settings.url.get_secret_value(),
            socket_timeout=settings.timeout,
            socket_connect_timeout=settings.timeout,
            decode_responses=True,
        )
        self._take = self._redis.register_script(scripts.TAKE)
        self._correct = self._redis.register_script(scripts.CORRECT)
        self._enter = self._redis.register_script(scripts.ENTER)
        self._renew = self._redis.register_script(scripts.RENEW)
        self._held: dict[str, set[str]] = {}  # key → the places that are ours
        self._renewing: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._alone = LocalLedger()
        self._lost_until = 0.0
        self._lost = False

    async def take(self, scope: str, asked: Sequence[Asked]) -> Taken | Refused:
        """See `Ledger.take`."""
        arguments: list[int] = []
        for one in asked:
            arguments += (round(one.rate.seconds * 1e6), one.rate.amount, one.amount)
        answer = await self._ask(self._take, self._keys(scope, asked), arguments)
        if answer is None:
            if self._settings.when_lost == "refuse":
                raise _lost(scope)
            alone = await self._alone.take(scope, asked)
            return _TakenAlone(alone.slots) if isinstance(alone, Taken) else alone
        worst, *rest = answer
        if worst:
            return Refused(asked[worst - 1], rest[0] / 1e6)
        return Taken(rest)

    async def correct(
        self, scope: str, asked: Sequence[Asked], taken: Taken, amounts: Sequence[int]
    ) -> None:
        """See `Ledger.correct`."""
        if isinstance(taken, _TakenAlone):
            await self._alone.correct(scope, asked, taken, amounts)
            return
        changes = [amount - one.amount for amount, one in zip(amounts, asked, strict=True)]
        if not any(changes):
            return
        arguments: list[int] = []
        for one, slot, change in zip(asked, taken.slots, changes, strict=True):
            arguments += (round(one.rate.seconds * 1e6), slot, change)
        await self._ask(self._correct, self._keys(scope, asked), arguments)

    async def lease(self, scope: str, most: int, patience: float) -> _Place | None:
        """See `Ledger.lease`."""
        key = f"{self._settings.prefix}{{{scope}}}:places"
        place = _Place(self, key, secrets.token_hex(8))
        until = time.monotonic() + patience
        pause = _FIRST_PAUSE
        while True:
            arguments: list[int | str] = [most, round(_HELD * 1e6), place.name]
            try:
                answer: Any = await self._ask(self._enter, [key], arguments)
            except asyncio.CancelledError:
                place.leave()  # whatever Redis has done of it
                raise
            if answer is None:
                if self._settings.when_lost == "refuse":
                    raise _lost(scope)
                return None
            if answer:
                self._held.setdefault(key, set()).add(place.name)
                if self._renewing is None:
                    self._renewing = asyncio.create_task(self._keep())
                return place
            if time.monotonic() + pause > until:
                raise NoPlace("the gateways together have no place left")
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def leave(self, key: str, name: str) -> None:
        """Give a place back; Redis is told in the background."""
        held = self._held.get(key, set())
        held.discard(name)
        if not held:
            self._held.pop(key, None)
        task = asyncio.create_task(self._give_back(key, name))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """See `Ledger.close`."""
        if self._renewing is not None:
            self._renewing.cancel()
        await asyncio.gather(*self._leaving)
        await self._redis.aclose()

    async def _give_back(self, key: str, name: str) -> None:
        with suppress(*self._errors):  # otherwise it is free when its time is over
            await self._redis.zrem(key, name)

    async def _keep(self) -> None:
        """Say now and then which places are still held."""
        while True:
            await asyncio.sleep(_HELD / 3)
            for key, names in list(self._held.items()):
                await self._ask(self._renew, [key], [round(_HELD * 1e6), *names])

    def _keys(self, scope: str, asked: Sequence[Asked]) -> list[str]:
        return [f"{self._settings.prefix}{{{scope}}}:{one.kind}:{one.rate}" for one in asked]

    async def _ask(
        self, script: Any, keys: Sequence[str], arguments: Sequence[int | str]
    ) -> list[int] | None:
        """What a script says; None where Redis is not there."""
        if self._lost and time.monotonic() < self._lost_until:
            return None
        self._lost_until = time.monotonic() + _PAUSE  # the others do not wait for it meanwhile
        try:
            async with asyncio.timeout(self._settings.timeout):
                answer = await script(keys=keys, args=arguments)
        except self._errors as error:
            self._lost_until = time.monotonic() + _PAUSE
            if not self._lost:
                self._lost = True
                log(
                    logging.ERROR,
                    "the shared limits' Redis does not answer",
                    why=str(error) or type(error).__name__,
                    meanwhile=self._settings.when_lost,
                )
            return None
        if self._lost:
            self._lost = False
            log(logging.INFO, "the shared limits' Redis answers again")
        return cast(list[int], answer)


class _Place:
    """A place that a call holds among several gateways; see `Lease`."""

    def __init__(self, ledger: SharedLedger, key: str, name: str) -> None:
        self.name = name
        self._ledger = ledger
        self._key = key

    def leave(self) -> None:
        """See `Lease.leave`."""
        self._ledger.leave(self._key, self.name)


def _lost(scope: str) -> Failure:
    return Failure(
        v1.ERROR_REASON_LIMIT_EXCEEDED,
        "the limits that the gateways share cannot be counted at the moment: their Redis does not "
        "answer; try again, or tell the operator",
        retry_delay=_PAUSE,
        scope=scope,
    )
