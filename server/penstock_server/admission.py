"""Who is next: a bounded queue that is fair to callers that ask for little.

In front of engines (``local``) and of providers (``limits``). What is asked for is not known here.
Not safe for threads by itself: an engine holds a lock around it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What can stand in the queue."""

    @property
    def caller(self) -> str:
        """Who asks."""

    @property
    def queued_at(self) -> float:
        """When it was asked for."""

    @property
    def begun(self) -> bool:
        """It has run already, and has to wait again."""


T = TypeVar("T", bound=Waiting)


class Admission(Generic[T]):
    """A queue in which callers take turns.

    Within one caller's requests the order of arrival counts. Between callers the one that has the
    fewest running requests is next, so that a flood of requests delays its own sender and hardly
    anybody else. Of equals it is the one that has waited longest for its turn: a caller goes to
    the end of the ring when it begins to wait and whenever a request of its own has ended. (By
    the age of their requests instead, one flood would be first again and again wherever a single
    request runs at a time.) With a single caller it is a plain queue.

    ``most`` bounds how many wait; only those that ran already and have to wait again may be more.
    Where the queue is full, a newcomer whose caller has fewer requests in it than another takes
    the place of that other's last one: see `push`.

    Example::

        queue = Admission(most=256)
        refused = queue.push(answer)  # the answer itself, another's last one, or None
        answer = queue.pop()
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()  # the ring of callers
        self._running: Counter[str] = Counter()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for queue in self._queues.values():
            yield from queue

    def push(self, answer: T) -> T | None:
        """Take in an answer at the end of its caller's queue; returns who has to go for it.

        None where there was room, else the one that is to be told that it is too many: the
        newcomer itself, or the last one of the caller who has most waiting. Never one that has
        begun: its text is out already.
        """
        caller = answer.caller
        refused: T | None = None
        if self._length >= self._most:
            others = [queue for queue in self._queues.values() if not queue[-1].begun]
            nobody: deque[T] = deque()
            greediest = max(others, key=len, default=nobody)
            if len(greediest) <= len(self._queues.get(caller, ())) + 1:
                return answer
            refused = greediest[-1]
            self.remove(refused)
        self._queues.setdefault(caller, deque()).append(answer)
        self._length += 1
        return refused

    def put_back(self, answer: T) -> None:
        """Take in one that was popped and has to wait again: it is next, as if it had stayed.

        Where several of a caller's had begun, they keep their order.
        """
        caller = answer.caller
        self.ended(answer)
        queue = self._queues.setdefault(caller, deque())
        place = 0
        while place < len(queue) and _stays_before(queue[place], answer):
            place += 1
        queue.insert(place, answer)
        self._queues.move_to_end(caller, last=False)
        self._length += 1

    def pop(self) -> T:
        """The next one, which counts as running until `ended`. There must be one."""
        caller = min(self._queues, key=self._running.__getitem__)  # of equals, the ring's first
        answer = self._queues[caller][0]
        self.remove(answer)
        self._running[caller] += 1
        return answer

    def skip(self, answer: T) -> None:
        """One that need not wait runs at once, and counts as running until `ended`."""
        self._running[answer.caller] += 1

    def ended(self, answer: T) -> None:
        """One that was popped, or skipped the queue, runs no longer."""
        caller = answer.caller
        self._running[caller] -= 1
        if self._running[caller] <= 0:
            del self._running[caller]
        if caller in self._queues:
            self._queues.move_to_end(caller)

    def remove(self, answer: T) -> bool:
        """Forget one that waits; whether it did."""
        queue = self._queues.get(answer.caller)
        if queue is None or answer not in queue:
            return False
        queue.remove(answer)
        self._length -= 1
        if not queue:
            del self._queues[answer.caller]
        return True

    def clear(self) -> list[T]:
        """Forget all that wait, and return them."""
        waiting = list(self)
        self._queues.clear()
        self._length = 0
        return waiting


def _stays_before(one: Waiting, other: Waiting) -> bool:
    return one.begun and one.queued_at < other.queued_at
