"""Rates that several gateways share: the same books as in ``rates``, kept in Redis.

One script looks and counts at once, so what is let through is exact however many gateways there
are. Time is Redis' own. A scope's keys have its name in braces, so that a cluster keeps them
together. Keys expire when they say nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, cast

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.limit_settings import RedisSettings
from penstock_server.limits.rates import SLOTS, Asked, LocalLedger, Refused, Taken
from penstock_server.telemetry import log

# Each key is a hash: a slot's number → how much is counted in it. For each of them, ARGV has the
# window's length in microseconds, what is allowed, and what is asked for.
_TAKE = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local worst, wait = 0, 0
for i, key in ipairs(KEYS) do
  local window, allowed, amount = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i])
  local width = window / {SLOTS}
  local held, total, slots = redis.call('HGETALL', key), 0, {{}}
  for j = 1, #held, 2 do
    local number, count = tonumber(held[j]), tonumber(held[j+1])
    if (number + 1) * width + window <= now then
      redis.call('HDEL', key, held[j])
    else
      total = total + count
      slots[#slots+1] = {{number, count}}
    end
  end
  local excess = total + math.min(amount, allowed) - allowed
  if excess > 0 then
    table.sort(slots, function(a, b) return a[1] < b[1] end)
    local until_ = window
    for _, slot in ipairs(slots) do
      excess = excess - slot[2]
      if excess <= 0 then
        until_ = (slot[1] + 1) * width + window - now
        break
      end
    end
    if until_ > wait then worst, wait = i, until_ end
  end
end
if worst > 0 then return {{worst, math.max(math.ceil(wait), 1000)}} end
local answer = {{0}}
for i, key in ipairs(KEYS) do
  local window = tonumber(ARGV[3*i-2])
  local number = math.floor(now / (window / {SLOTS}))
  redis.call('HINCRBY', key, string.format('%d', number), ARGV[3*i])
  redis.call('PEXPIRE', key, math.ceil(window * 1.1 / 1000) + 1000)
  answer[i+1] = number
end
return answer
"""

# ARGV has the window's length, the slot and the change. A slot that is gone takes no refund.
_CORRECT = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
for i, key in ipairs(KEYS) do
  local window, number, change = tonumber(ARGV[3*i-2]), ARGV[3*i-1], tonumber(ARGV[3*i])
  if change > 0 and redis.call('HEXISTS', key, number) == 0 then
    number = string.format('%d', math.floor(now / (window / {SLOTS})))
  end
  if change > 0 or redis.call('HEXISTS', key, number) == 1 then
    redis.call('HINCRBY', key, number, ARGV[3*i])
    redis.call('PEXPIRE', key, math.ceil(window * 1.1 / 1000) + 1000)
  end
end
return 0
"""

# While Redis does not answer, calls do not each wait for it: one asks again after so many seconds.
_PAUSE = 1.0


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
        self._take = self._redis.register_script(_TAKE)
        self._correct = self._redis.register_script(_CORRECT)
        self._alone = LocalLedger()
        self._lost_until = 0.0
        self._lost = False

    async def take(self, scope: str, asked: Sequence[Asked]) -> Taken | Refused:
        """See `Ledger.take`."""
        arguments: list[int] = []
        for one in asked:
            arguments += (round(one.rate.seconds * 1e6), one.rate.amount, one.amount)
        answer = await self._ask(self._take, scope, asked, arguments)
        if answer is None:
            if self._settings.when_lost == "refuse":
                raise _lost(scope)
            return await self._alone.take(scope, asked)
        worst, *rest = answer
        if worst:
            return Refused(asked[worst - 1], rest[0] / 1e6)
        return Taken(rest)

    async def correct(
        self, scope: str, asked: Sequence[Asked], taken: Taken, amounts: Sequence[int]
    ) -> None:
        """See `Ledger.correct`."""
        changes = [amount - one.amount for amount, one in zip(amounts, asked, strict=True)]
        if not any(changes):
            return
        arguments: list[int] = []
        for one, slot, change in zip(asked, taken.slots, changes, strict=True):
            arguments += (round(one.rate.seconds * 1e6), slot, change)
        await self._ask(self._correct, scope, asked, arguments)

    async def close(self) -> None:
        """See `Ledger.close`."""
        await self._redis.aclose()

    async def _ask(
        self, script: Any, scope: str, asked: Sequence[Asked], arguments: Sequence[int]
    ) -> list[int] | None:
        """What a script says; None where Redis is not there."""
        if self._lost and time.monotonic() < self._lost_until:
            return None
        self._lost_until = time.monotonic() + _PAUSE  # the others do not wait for it meanwhile
        keys = [f"{self._settings.prefix}{{{scope}}}:{one.kind}:{one.rate}" for one in asked]
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


def _lost(scope: str) -> Failure:
    return Failure(
        v1.ERROR_REASON_LIMIT_EXCEEDED,
        "the limits that the gateways share cannot be counted at the moment: their Redis does not "
        "answer; try again, or tell the operator",
        retry_delay=_PAUSE,
        scope=scope,
    )
