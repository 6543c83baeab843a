"""Taking turns: one at a time, in the order of asking, for threads and event loops alike."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TypeAlias

Ticket: TypeAlias = "Future[None]"
"""A place in the queue; done once its turn has come."""


class Turns:
    """Who may go on. A thread waits by blocking, a task by awaiting; both stand in one queue.

    Example::

        mine = turns.wait()            # or: await turns.await_turn()
        try:
            ...
        finally:
            turns.done(mine)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: Ticket | None = None
        self._waiting: deque[Ticket] = deque()

    def wait(self) -> Ticket:
        """Wait for one's turn. Whoever is interrupted while waiting leaves the queue.

        Raises:
            RuntimeError: an event loop runs in this thread, which would stop while waiting, and
                with it perhaps the one whose turn it is.
        """
        mine = self._stand_in_line()
        try:
            if not mine.done() and asyncio._get_running_loop() is not None:
                raise RuntimeError(
                    "someone else has the turn: waiting here would stop the event loop that runs "
                    "in this thread; await the asynchronous twin instead"
                )
            mine.result()
        except BaseException:
            self._give_up(mine)
            raise
        return mine

    async def await_turn(self) -> Ticket:
        """`wait`'s twin; whoever is cancelled while waiting leaves the queue."""
        mine = self._stand_in_line()
        if not mine.done():
            try:
                await asyncio.shield(asyncio.wrap_future(mine))
            except BaseException:
                self._give_up(mine)
                raise
        return mine

    def done(self, mine: Ticket) -> None:
        """It is the next one's turn. Does nothing where ``mine`` does not have it (any more)."""
        with self._lock:
            if self._holder is not mine:
                return
            self._holder = following = next(self._those_who_still_wait(), None)
        if following is not None:
            following.set_result(None)

    def _stand_in_line(self) -> Ticket:
        mine: Ticket = Future()
        with self._lock:
            if self._holder is not None:
                self._waiting.append(mine)
                return mine
            self._holder = mine
        mine.set_result(None)
        return mine

    def _give_up(self, mine: Ticket) -> None:
        # Where the turn has come in the meantime, it is passed on.
        if not mine.cancel():
            self.done(mine)

    def _those_who_still_wait(self) -> Iterator[Ticket]:
        while self._waiting:
            first = self._waiting.popleft()
            if first.set_running_or_notify_cancel():
                yield first
