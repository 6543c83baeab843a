"""Taking turns: one at a time, in the order of asking, for threads and event loops alike."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future


class Turns:
    """Who may go on. A thread waits by blocking, a task by awaiting; both stand in one queue.

    Example::

        turns.wait()            # or: await turns.await_turn()
        try:
            ...
        finally:
            turns.done()
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[Future[None]] = deque()

    def wait(self) -> None:
        """Wait for one's turn. Whoever is interrupted while waiting leaves the queue."""
        mine = self._stand_in_line()
        try:
            mine.result()
        except BaseException:
            self._give_up(mine)
            raise

    async def await_turn(self) -> None:
        """`wait`'s twin; whoever is cancelled while waiting leaves the queue."""
        mine = self._stand_in_line()
        try:
            await asyncio.shield(asyncio.wrap_future(mine))
        except BaseException:
            self._give_up(mine)
            raise

    def done(self) -> None:
        """It is the next one's turn."""
        with self._lock:
            while self._waiting:
                following = self._waiting.popleft()
                if following.set_running_or_notify_cancel():
                    break
            else:
                self._taken = False
                return
        following.set_result(None)

    def _stand_in_line(self) -> Future[None]:
        mine: Future[None] = Future()
        with self._lock:
            if self._taken:
                self._waiting.append(mine)
                return mine
            self._taken = True
        mine.set_running_or_notify_cancel()
        mine.set_result(None)
        return mine

    def _give_up(self, mine: Future[None]) -> None:
        # Where the turn has come in the meantime, it is passed on.
        if not mine.cancel():
            self.done()
