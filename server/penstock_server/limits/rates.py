"""Rates: at most so much in any time of a given length. Counted in this process.

A sliding window, and not a token bucket: a bucket of 100 that refills at 10 a second lets nearly
200 through within its first ten seconds. What was let through is kept in slots of a fiftieth of
the window, and a slot counts until all of it has left the window. So there is never more in any
window than allowed; what is let through again comes up to a fiftieth of the window late.
``shared`` keeps the same books in Redis.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from penstock_server.limit_settings import Rate

SLOTS = 50
"""Into how many slots a window is divided."""


class Asked(NamedTuple):
    """So much of a rate. ``kind`` is what it counts, "requests" or "tokens"."""

    kind: str
    rate: Rate
    amount: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What was let through: for each rate, in which slot it is counted."""

    slots: Sequence[int]


@dataclass(frozen=True, slots=True)
class Refused:
    """What was not, and why."""

    asked: Asked
    """The one with the longest wait."""
    wait: float
    """After how many seconds it would be let through, if nobody else came."""


class Ledger(Protocol):
    """Where it is counted."""

    async def take(self, scope: str, asked: Sequence[Asked]) -> Taken | Refused:
        """Count all of it, or nothing where one rate does not allow it."""

    async def correct(
        self, scope: str, asked: Sequence[Asked], taken: Taken, amounts: Sequence[int]
    ) -> None:
        """It was so much in truth, for each of them; which may be more than any rate allows."""

    async def lease(self, scope: str, most: int, patience: float) -> Lease | None:
        """One of ``most`` places that all who share the ledger have together.

        None where nobody shares it: then its `Bulkhead` says all. Raises `NoPlace` where none is
        free within ``patience`` seconds.
        """

    async def close(self) -> None:
        """Let go of everything."""


class Lease(Protocol):
    """A place among several gateways; taken back by itself if this one dies."""

    def leave(self) -> None:
        """Give it back."""


class NoPlace(Exception):
    """All places are taken."""


class Window:
    """One rate's books.

    Example::

        window = Window(Rate(100, 10))
        window.wait(1, now) or window.add(1, now)
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._width = rate.seconds / SLOTS
        self._slots: deque[list[int]] = deque()  # [its number, how much], the oldest first
        self._total = 0

    def wait(self, amount: int, now: float) -> float:
        """Seconds until so much more is allowed; 0: it is now."""
        self._forget(now)
        # More than all of it at once: when nothing else is in the window.
        excess = self._total + min(amount, self._rate.amount) - self._rate.amount
        if excess <= 0:
            return 0.0
        for number, held in self._slots:
            excess -= held
            if excess <= 0:
                return max(self._end(number) - now, 0.001)
        return self._rate.seconds  # not reached: the slots hold the total

    def add(self, amount: int, now: float) -> int:
        """Count it; in which slot that is."""
        number = int(now / self._width)
        if not self._slots or self._slots[-1][0] < number:
            self._slots.append([number, 0])
        self._slots[-1][1] += amount
        self._total += amount
        return number

    def correct(self, number: int, change: int, now: float) -> None:
        """Count more or less in a slot; what has left the window is settled, but debts stay."""
        self._forget(now)
        for slot in self._slots:
            if slot[0] == number:
                slot[1] += change
                self._total += change
                return
        if change > 0:
            self.add(change, now)

    @property
    def empty(self) -> bool:
        """Whether nothing is counted."""
        return not self._slots

    def _end(self, number: int) -> float:
        return (number + 1) * self._width + self._rate.seconds

    def _forget(self, now: float) -> None:
        while self._slots and self._end(self._slots[0][0]) <= now:
            self._total -= self._slots.popleft()[1]


Clock = Callable[[], float]


class LocalLedger:
    """Counts in this process. Exact under concurrency: nothing here waits between look and count.

    Example::

        ledger = LocalLedger()
        outcome = await ledger.take("caller/reports", [Asked("requests", Rate(100, 10), 1)])
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._books: dict[str, Mapping[tuple[str, Rate], Window]] = {}
        self._swept = 0

    async def take(self, scope: str, asked: Sequence[Asked]) -> Taken | Refused:
        """See `Ledger.take`."""
        now = self._clock()
        windows = self._windows(scope, asked)
        waits = [w.wait(one.amount, now) for w, one in zip(windows, asked, strict=True)]
        longest = max(range(len(asked)), key=waits.__getitem__)
        if waits[longest] > 0:
            return Refused(asked[longest], waits[longest])
        return Taken([w.add(one.amount, now) for w, one in zip(windows, asked, strict=True)])

    async def correct(
        self, scope: str, asked: Sequence[Asked], taken: Taken, amounts: Sequence[int]
    ) -> None:
        """See `Ledger.correct`."""
        now = self._clock()
        windows = self._windows(scope, asked)
        for window, one, slot, amount in zip(windows, asked, taken.slots, amounts, strict=True):
            if amount != one.amount:
                window.correct(slot, amount - one.amount, now)

    async def lease(self, scope: str, most: int, patience: float) -> None:
        """See `Ledger.lease`: nobody shares this one."""

    async def close(self) -> None:
        """See `Ledger.close`."""

    def _windows(self, scope: str, asked: Sequence[Asked]) -> list[Window]:
        books = self._books.get(scope)
        if books is None or any((one.kind, one.rate) not in books for one in asked):
            self._sweep()
            books = {(one.kind, one.rate): Window(one.rate) for one in asked} | dict(books or {})
            self._books[scope] = books
        return [books[one.kind, one.rate] for one in asked]

    def _sweep(self) -> None:
        """Forget scopes whose windows are empty, now and then: callers come and go."""
        if len(self._books) < 2 * self._swept + 64:
            return
        now = self._clock()
        for scope, books in list(self._books.items()):
            for window in books.values():
                window.wait(0, now)
            if all(window.empty for window in books.values()):
                del self._books[scope]
        self._swept = len(self._books)
