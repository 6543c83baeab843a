"""Who is next: turns, bounds, and that nobody is lost or served twice."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from penstock_server.admission import Admission
from penstock_server.local.job import Answer

from tests.sidecars.counting import job

CALLERS = ["a", "b", "c", "d"]


def answer(caller: str = "", number: int = 1) -> Answer:
    return Answer(job(number, caller=caller), lambda answer: None)


def order(queue: Admission[Answer]) -> list[str]:
    """The callers of all that wait, in the order of admission where one runs at a time."""
    served: list[str] = []
    while queue:
        popped = queue.pop()
        served.append(popped.job.caller)
        queue.ended(popped)
    return served


def test_a_flood_is_interrupted_where_one_runs_at_a_time() -> None:
    queue = Admission[Answer](100)
    for caller in "aaaaaa":
        queue.push(answer(caller))
    running = queue.pop()
    for caller in "bcb":
        queue.push(answer(caller))
    queue.ended(running)
    assert "".join(order(queue)) == "bcabaaaa"


def test_who_finds_no_room_keeps_its_turn() -> None:
    queue = Admission[Answer](100)
    for caller in "aabb":
        queue.push(answer(caller))
    first = queue.pop()
    for _ in range(3):
        queue.put_back(first)
        assert queue.pop() is first


def test_the_caller_with_the_fewest_running_is_next() -> None:
    queue = Admission[Answer](100)
    for caller in "aaaaaabbc":
        queue.push(answer(caller))
    assert "".join(queue.pop().job.caller for _ in range(9)) == "abcabaaaa"


def test_callers_that_ask_once_do_not_starve_one_that_asks_often() -> None:
    """However many strangers come, each is behind those who waited before it."""
    queue = Admission[Answer](1_000)
    for _ in range(3):
        queue.push(answer("often"))
    served: list[str] = []
    for number in range(40):
        queue.push(answer(f"stranger {number}"))
        queue.push(answer(f"other {number}"))
        popped = queue.pop()
        served.append(popped.job.caller)
        queue.ended(popped)
    assert served.count("often") == 3


def test_who_is_displaced_when_the_queue_is_full() -> None:
    queue = Admission[Answer](4)
    a = [answer("a", n) for n in range(3)]
    b = answer("b")
    for each in (*a, b):
        assert queue.push(each) is None
    greedy = answer("a")
    assert queue.push(greedy) is greedy  # its own are the most
    c = answer("c")
    assert queue.push(c) is a[2]  # the last one of the greediest
    b2 = answer("b")
    assert queue.push(b2) is b2  # it would only turn the tables
    assert set(queue) == {a[0], a[1], b, c}
    d = answer("d")
    assert queue.push(d) is a[1]
    e = answer("e")
    assert queue.push(e) is e  # nobody is greedy any more
    assert len(queue) == 4


def test_who_has_begun_is_never_displaced_and_keeps_its_order() -> None:
    queue = Admission[Answer](2)
    begun = [answer("a", n) for n in range(3)]
    for each in begun[:2]:
        queue.push(each)
        assert queue.pop() is each
    queue.push(begun[2])
    assert queue.pop() is begun[2]
    waiting = answer("a")
    queue.push(waiting)
    for number in (1, 0, 2):  # taken back in any order
        begun[number].job.started_at = 1.0
        queue.put_back(begun[number])
    assert len(queue) == 4  # they may be more than the bound
    assert queue.push(answer("b", 50)) is waiting
    newcomer = answer("c", 51)
    assert queue.push(newcomer) is newcomer
    served = [queue.pop() for _ in range(4)]
    assert [each for each in served if each.job.caller == "a"] == begun


@given(st.lists(st.sampled_from(["push", "pop", "back"])), st.integers(1, 5))
def test_a_single_caller_has_a_plain_queue(actions: list[str], most: int) -> None:
    queue, plain = Admission[Answer](most), list[Answer]()
    for action in actions:
        if action == "push":
            new = answer()
            refused = queue.push(new)
            if len(plain) < most:
                plain.append(new)
                assert refused is None
            else:
                assert refused is new
        elif plain:
            popped = queue.pop()
            assert popped is plain[0]
            if action == "back":
                queue.put_back(popped)
            else:
                plain.pop(0)
                queue.ended(popped)
        assert list(queue) == plain


@settings(max_examples=60)
@given(
    st.integers(1, 4),
    st.lists(st.integers(1, 30), min_size=2, max_size=4),
)
def test_nobody_waits_for_more_than_a_turn_of_each_other_caller(
    capacity: int, floods: list[int]
) -> None:
    """A single request that comes late, after any flood of any others."""
    queue = Admission[Answer](1_000)
    for number, flood in enumerate(floods):
        for _ in range(flood):
            queue.push(answer(str(number)))
    running = [queue.pop() for _ in range(min(capacity, len(queue)))]
    queue.push(answer("late"))
    turns = 0
    while True:
        queue.ended(running.pop(0))
        running.append(queue.pop())
        if running[-1].job.caller == "late":
            break
        turns += 1
    assert turns <= len(floods)


class Traffic(RuleBasedStateMachine):
    """Anything that an engine may do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 4
        self.queue = Admission[Answer](self.most)
        self.waiting: set[Answer] = set()
        self.running: list[Answer] = []

    @rule(caller=st.sampled_from(CALLERS))
    def push(self, caller: str) -> None:
        before = Counter(a.job.caller for a in self.waiting)
        new = answer(caller)
        refused = self.queue.push(new)
        # The bound: only what is put back may be more.
        assert len(self.queue) <= max(self.most, len(self.waiting))
        if len(self.waiting) < self.most:
            assert refused is None
        else:
            assert refused is not None
        if refused is not new:
            self.waiting.add(new)
        if refused is not None and refused is not new:
            self.waiting.remove(refused)
            assert refused.job.started_at is None
            assert before[refused.job.caller] > before[caller] + 1
            first = min(
                (a for a in self.waiting if a.job.caller == refused.job.caller),
                key=lambda a: a.job.queued_at,
            )
            assert first.job.queued_at <= refused.job.queued_at

    @precondition(lambda self: self.waiting)
    @rule()
    def pop(self) -> None:
        counts = Counter(a.job.caller for a in self.running)
        fewest = min(counts[a.job.caller] for a in self.waiting)
        popped = self.queue.pop()
        assert popped in self.waiting, "it is served twice, or was refused"
        assert counts[popped.job.caller] == fewest
        self.waiting.remove(popped)
        self.running.append(popped)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), begun=st.booleans())
    def put_back(self, data: st.DataObject, begun: bool) -> None:
        one = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if begun:
            one.job.started_at = 1.0
        self.queue.put_back(one)
        self.waiting.add(one)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def ended(self, data: st.DataObject) -> None:
        one = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.queue.ended(one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        waiting = sorted(self.waiting, key=lambda a: a.job.queued_at)
        one = data.draw(st.sampled_from(waiting))
        assert self.queue.remove(one)
        assert not self.queue.remove(one)
        self.waiting.remove(one)

    @rule()
    def clear(self) -> None:
        assert set(self.queue.clear()) == self.waiting
        self.waiting.clear()

    @invariant()
    def nobody_is_lost_or_doubled(self) -> None:
        listed = list(self.queue)
        assert len(listed) == len(set(listed)) == len(self.queue) == len(self.waiting)
        assert set(listed) == self.waiting

    @invariant()
    def running_counts_are_right(self) -> None:
        assert dict(self.queue._running) == Counter(a.job.caller for a in self.running)

    def teardown(self) -> None:
        for one in self.running:
            self.queue.ended(one)
        assert len(order(self.queue)) == len(self.waiting)
        assert not self.queue
        assert not self.queue._running
        assert not self.queue._queues


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
