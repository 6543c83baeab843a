"""Who is next: the bounded queue in front of an engine, fair to callers that ask for little.

What is computed, and where, is not known here. Not safe for threads by itself: the engine holds a
lock around it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from penstock_server.local.job import Answer


class Admission:
    """A queue of answers in which callers take turns.

    Within one caller's requests the order of arrival counts. Between callers the one that has the
    fewest running requests is next (of equals, the one whose request came first), so that a
    flood of requests delays its own sender and hardly anybody else. With a single caller it is
    a plain queue.

    ``most`` bounds how many wait. Where the queue is full, a newcomer whose caller has fewer
    requests in it than another takes the place of that other's last one: see `push`.

    Example::

        queue = Admission(most=256)
        refused = queue.push(answer)  # the answer itself, another's last one, or None
        answer = queue.pop()
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: dict[str, deque[Answer]] = {}
        self._running: Counter[str] = Counter()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Answer]:
        for queue in self._queues.values():
            yield from queue

    def push(self, answer: Answer) -> Answer | None:
        """Take in an answer at the end of its caller's queue; returns who has to go for it.

        None where there was room, else the one that is to be told that it is too many: the
        newcomer itself, or the last one of the caller who has most waiting.
        """
        caller = answer.job.caller
        refused: Answer | None = None
        if self._length >= self._most:
            greediest = max(self._queues, key=lambda name: len(self._queues[name]))
            if len(self._queues[greediest]) <= len(self._queues.get(caller, ())) + 1:
                return answer
            refused = self._queues[greediest][-1]
            self.remove(refused)
        self._queues.setdefault(caller, deque()).append(answer)
        self._length += 1
        return refused

    def put_back(self, answer: Answer) -> None:
        """Take in one that ran already and has to wait again: it is its caller's next."""
        self.ended(answer)
        self._queues.setdefault(answer.job.caller, deque()).appendleft(answer)
        self._length += 1

    def pop(self) -> Answer:
        """The next one, which counts as running until `ended`. There must be one."""
        caller = min(
            self._queues,
            key=lambda name: (self._running[name], self._queues[name][0].job.queued_at),
        )
        answer = self._queues[caller][0]
        self.remove(answer)
        self._running[caller] += 1
        return answer

    def ended(self, answer: Answer) -> None:
        """One that was popped runs no longer."""
        caller = answer.job.caller
        self._running[caller] -= 1
        if self._running[caller] <= 0:
            del self._running[caller]

    def remove(self, answer: Answer) -> bool:
        """Forget one that waits; whether it did."""
        queue = self._queues.get(answer.job.caller)
        if queue is None or answer not in queue:
            return False
        queue.remove(answer)
        self._length -= 1
        if not queue:
            del self._queues[answer.job.caller]
        return True

    def clear(self) -> list[Answer]:
        """Forget all that wait, and return them."""
        waiting = list(self)
        self._queues.clear()
        self._length = 0
        return waiting
