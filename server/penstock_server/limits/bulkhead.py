"""How many calls run at a time, and how many may wait: so that one slow provider keeps only its own
callers waiting (M. Nygard, "Release It!", 2007, calls it a bulkhead)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from penstock_server.admission import Admission

_MEMORY = 0.1
"""How much the last call weighs in what a call is thought to take."""


class Full(Exception):
    """No room. ``wait`` is after how many seconds there may be some; None where nobody knows."""

    def __init__(self, why: str, wait: float | None) -> None:
        super().__init__(why)
        self.wait = wait


class Ticket:
    """One call's place."""

    begun = False

    def __init__(self, caller: str, queued_at: float) -> None:
        self.caller = caller
        self.queued_at = queued_at
        self.began = queued_at
        self.turn: asyncio.Future[None] | None = None


class Bulkhead:
    """At most ``concurrency`` calls at a time; ``queue`` more wait, callers taking turns.

    Who cannot be begun before its own deadline, as far as the calls before tell, is refused at
    once, and so is who finds the queue full, or is the last of the caller that fills it when a
    caller comes that asks for less (`Admission`). Everything belongs to one event loop.

    Example::

        ticket = await bulkhead.enter("reports", remaining=30.0)
        try: ...
        finally: bulkhead.leave(ticket)
    """

    def __init__(
        self, concurrency: int, queue: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.concurrency = concurrency
        self._waiting = Admission[Ticket](queue)
        self._clock = clock
        self._running = 0
        self._takes: float | None = None  # what a call takes, in seconds, as far as is known

    @property
    def running(self) -> int:
        """How many run."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def enter(self, caller: str, remaining: float | None) -> Ticket:
        """Wait for a place, to be left by `leave`; raises `Full`.

        ``remaining`` is how many seconds the call has left; None: all there are.
        """
        ticket = Ticket(caller, self._clock())
        if self._running < self.concurrency and not self._waiting:
            self._waiting.skip(ticket)
            self._running += 1
            return ticket
        wait = self._expected()
        if remaining is not None and wait is not None and wait > remaining:
            raise Full(f"its turn would come in {wait:.1f} s, and it has {remaining:.1f} s", wait)
        ticket.turn = asyncio.get_running_loop().create_future()
        refused = self._waiting.push(ticket)
        if refused is ticket:
            raise self._too_many()
        if refused is not None and refused.turn is not None:
            refused.turn.set_exception(self._too_many())
        try:
            await ticket.turn
        except asyncio.CancelledError:
            self._waiting.remove(ticket)
            turn = ticket.turn
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(ticket)  # its turn had come at that very moment
            raise
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """One that ran has ended: the next one's turn."""
        self._waiting.ended(ticket)
        took = self._clock() - ticket.began
        self._takes = took if self._takes is None else self._takes + _MEMORY * (took - self._takes)
        self._running -= 1
        while self._running < self.concurrency and self._waiting:
            following = self._waiting.pop()
            assert following.turn is not None
            if following.turn.done():  # its call was cancelled a moment ago
                self._waiting.ended(following)
                continue
            following.began = self._clock()
            self._running += 1
            following.turn.set_result(None)

    def _expected(self) -> float | None:
        """How long a newcomer would wait."""
        if self._takes is None:
            return None
        return self._takes * (len(self._waiting) + 1) / self.concurrency

    def _too_many(self) -> Full:
        return Full(f"{self._running} calls run and {len(self._waiting)} wait", self._expected())
