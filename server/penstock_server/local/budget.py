"""The memory of one sidecar, shared by its models: who may come in, and who has to go for it.

How a model is loaded and unloaded is ``model``'s to know; how much memory there is, ``memory``'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local.memory import format_size
from penstock_server.local.recipe import Look
from penstock_server.telemetry import log

_WORKING_SHARE = 0.125
"""What a model needs to work, at least, as a share of its weights: a little cache, activations."""

_CACHE_SHARE = 0.8
"""The part for caches of what weights leave; the rest is for what a step computes with."""

_RETRY_DELAY = 5.0


class Tenant(Protocol):
    """A model, as far as the budget knows it."""

    name: str
    used_at: float
    """When it was last in use, on `time.monotonic`'s clock."""

    @property
    def idle(self) -> bool:
        """It is in memory, and nobody uses it."""

    async def make_way(self, patience: float) -> bool:
        """Leave the memory once nobody uses it, within ``patience`` seconds; whether it did."""


@dataclass(slots=True)
class _Claim:
    tenant: Tenant
    weights: int
    cache: int

    @property
    def total(self) -> int:
        return self.weights + self.cache


class Budget:
    """Keeps a sidecar's models within a bound.

    A model claims its weights and its cache before it is loaded, and releases them when it has
    left the memory. Where there is no room, the models that nobody uses go, the one first that
    has not been used for longest; then those that are in use, once their running answers are
    finished (calls that come in the meantime wait, and have the model loaded again: so two
    models that do not fit together take turns, and none starves). Whoever does not go within
    ``patience`` seconds stays, and the newcomer is refused for now.

    ``limit`` tells the bound in bytes (0: none); it is asked once, in a thread, when the first
    model comes. ``cache`` is what the operator lets each model's cache have (0: a share).

    All methods belong on the event loop. Example::

        cache_memory = await budget.claim(model, look, evict=True)
        ...
        budget.release(model.name)
    """

    def __init__(
        self, limit: Callable[[], int] = lambda: 0, cache: int = 0, patience: float = 60.0
    ) -> None:
        self._limit = limit
        self._cache = cache
        self._patience = patience
        self._most: int | None = None
        self._claims: dict[str, _Claim] = {}
        self._expected: dict[str, int] = {}
        self._lock = asyncio.Lock()  # room is made for one at a time, in the order of asking
        self._shrinking: asyncio.Task[None] | None = None

    @property
    def claimed(self) -> Mapping[str, int]:
        """Who has claimed how many bytes."""
        return {name: claim.total for name, claim in self._claims.items()}

    def expect(self, name: str, look: Look | None) -> None:
        """There is a model that may come, so that the caches of others leave room for it."""
        self._expected[name] = look.weights if look else 0

    async def claim(self, tenant: Tenant, look: Look, evict: bool) -> int:
        """Room for a model; returns how many bytes its cache may take, 0 where nobody bounds it.

        ``evict``: others may have to go for it. Raises SIDECAR_UNAVAILABLE where there is too
        little memory; ``passing`` says whether that may change.
        """
        self._expected[tenant.name] = look.weights
        async with self._lock:
            if self._most is None:
                self._most = await asyncio.to_thread(self._limit)
            if not self._most:
                self._claims[tenant.name] = _Claim(tenant, look.weights, 0)
                return 0 if look.embeds else self._cache
            least = int(look.weights * _WORKING_SHARE)
            if self._cache and not look.embeds:
                least = self._cache
            await self._make_room(tenant, look.weights, least, evict)
            cache = (
                least
                if look.embeds or self._cache
                else max(least, self._share(tenant, look, least))
            )
            self._claims[tenant.name] = _Claim(tenant, look.weights, cache)
            return 0 if look.embeds else cache

    def settle(self, name: str, weights: int) -> None:
        """A model is in memory, and its weights take so many bytes (0: still not known)."""
        claim = self._claims[name]
        if not weights:
            return
        claim.weights = self._expected[name] = weights
        if self._most and self._held() > self._most:
            self._shrinking = asyncio.create_task(self._shrink(claim.tenant))

    def release(self, name: str) -> None:
        """A model has left the memory, or has not come."""
        self._claims.pop(name, None)

    def _held(self) -> int:
        return sum(claim.total for claim in self._claims.values())

    def _share(self, tenant: Tenant, look: Look, least: int) -> int:
        """A model's part of what the weights leave: of those that are still to come, too.

        As far as they fit, that is, the smallest first: room for one that does not is no use.
        """
        assert self._most is not None
        left = self._most - self._held() - look.weights
        sharing, needed = 1, least
        for name, weights in sorted(self._expected.items(), key=lambda item: item[1]):
            if name in self._claims or name == tenant.name:
                continue
            its_least = int(weights * _WORKING_SHARE)
            if needed + its_least > left - weights:
                break
            left -= weights
            needed += its_least
            sharing += 1
        return min(int(left * _CACHE_SHARE / sharing), left - (needed - least))

    async def _make_room(self, tenant: Tenant, weights: int, least: int, evict: bool) -> None:
        assert self._most is not None
        needed = weights + least
        if needed > self._most:
            raise self._too_little(tenant, weights, least, passing=False)
        give_up = time.monotonic() + self._patience
        while self._held() + needed > self._most:
            victim = min(
                (claim.tenant for claim in self._claims.values()),
                key=lambda other: (not other.idle, other.used_at),
            )
            left = give_up - time.monotonic()
            if not evict or left <= 0 or not await self._evict(victim, left):
                raise self._too_little(tenant, weights, least, passing=True)

    async def _evict(self, victim: Tenant, patience: float) -> bool:
        log(logging.INFO, "model has to make way", model=victim.name)
        return await victim.make_way(patience)

    async def _shrink(self, newcomer: Tenant) -> None:
        """A model turned out larger than it looked: who is idle makes way."""
        async with self._lock:
            assert self._most is not None
            while self._held() > self._most:
                idle = [
                    claim.tenant
                    for claim in self._claims.values()
                    if claim.tenant.idle and claim.tenant is not newcomer
                ]
                if not idle:
                    log(
                        logging.WARNING,
                        "models take more memory than they should",
                        taken=format_size(self._held()),
                        bound=format_size(self._most),
                    )
                    return
                await self._evict(min(idle, key=lambda other: other.used_at), self._patience)

    def _too_little(self, tenant: Tenant, weights: int, least: int, passing: bool) -> Failure:
        assert self._most is not None
        message = (
            f"there is too little memory for {tenant.name}: it needs "
            f"{format_size(weights + least)} ({format_size(weights)} of them for its weights), "
            f"and all models together may take {format_size(self._most)}"
        )
        holders = ", ".join(
            f"{name} has {format_size(claim.total)}" + ("" if claim.tenant.idle else ", in use")
            for name, claim in self._claims.items()
        )
        if holders:
            message += f"; {holders}"
        advice = "try again later, or unload one" if passing else "see --memory and --dtype"
        return Failure(
            v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
            f"{message}; {advice}",
            passing=passing,
            retry_delay=_RETRY_DELAY if passing else None,
        )
