"""The circuit breaker, by a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_server.circuit import Circuit, CircuitPolicy, State

POLICY = CircuitPolicy(failures=3, cooldown=10, max_cooldown=25)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(POLICY, clock)


def fail(circuit: Circuit, times: int = 1, retry_delay: float | None = None) -> None:
    for _ in range(times):
        assert circuit.admit()
        circuit.failed(retry_delay)


def test_failures_in_a_row_open_it_and_a_success_begins_anew(circuit: Circuit) -> None:
    fail(circuit, 2)
    assert circuit.admit()
    circuit.succeeded()
    fail(circuit, 2)
    assert circuit.state is State.CLOSED
    fail(circuit)
    assert (circuit.state, circuit.wait) == (State.OPEN, 10)
    assert not circuit.admit()


def test_one_call_tries_it_and_decides(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, 3)
    clock.now += 10
    assert circuit.state.value == "half-open"
    assert circuit.admit()
    assert not circuit.admit()  # one at a time
    circuit.succeeded()
    assert circuit.state.value == "closed"
    assert circuit.admit()
    assert circuit.admit()


def test_it_stays_open_longer_each_time_up_to_a_bound(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, 3)
    waits = []
    for _ in range(4):
        waits.append(circuit.wait)
        clock.now += circuit.wait
        fail(circuit)
    assert waits == [10, 20, 25, 25]
    clock.now += circuit.wait
    assert circuit.admit()
    circuit.succeeded()
    fail(circuit, 3)
    assert circuit.wait == 10


def test_a_trial_that_was_left_leaves_room_for_another(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, 3)
    clock.now += 10
    assert circuit.admit()
    circuit.left()
    assert circuit.state is State.HALF_OPEN
    assert circuit.admit()


def test_who_asks_to_be_left_alone_is(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, retry_delay=4)
    assert (circuit.state, circuit.wait) == (State.OPEN, 4)
    clock.now += 4
    fail(circuit, retry_delay=1_000)
    assert circuit.wait == 25
    clock.now += 25
    assert circuit.admit()


def test_calls_that_were_under_way_do_not_shorten_the_wait(circuit: Circuit) -> None:
    assert circuit.admit()
    assert circuit.admit()
    circuit.failed(20)
    circuit.failed(2)
    assert circuit.wait == 20


def test_calls_that_were_under_way_do_not_close_it(circuit: Circuit) -> None:
    assert circuit.admit()
    assert circuit.admit()
    circuit.failed(20)
    circuit.succeeded()
    assert (circuit.state, circuit.wait) == (State.OPEN, 20)
    assert not circuit.admit()


def test_who_has_nowhere_else_to_go_may_try_early(circuit: Circuit, clock: Clock) -> None:
    assert not circuit.admit_early()  # nobody needs to: it is closed
    fail(circuit, 3)
    clock.now += 3
    assert circuit.admit_early()
    assert not circuit.admit_early()  # one at a time
    circuit.failed()
    assert circuit.wait == 7  # and no longer than before
    assert circuit.admit_early()
    circuit.left()
    assert circuit.admit_early()
    circuit.succeeded()
    assert circuit.state is State.CLOSED


def test_a_pause_that_was_asked_for_is_kept(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, retry_delay=4)
    assert not circuit.admit_early()
    clock.now += 4
    fail(circuit)  # its trial: from now on the wait is ours
    assert circuit.wait == 10
    assert circuit.admit_early()
    circuit.failed(20)
    assert not circuit.admit_early()


@given(
    st.lists(st.sampled_from(["early", "admit", "succeeded", "failed", "asked", "left", "wait"]))
)
def test_it_never_stays_shut(steps: list[str]) -> None:
    clock = Clock()
    circuit = Circuit(POLICY, clock)
    under_way = 0
    for step in steps:
        if step == "wait":
            clock.now += 7
        elif step == "admit":
            under_way += circuit.admit()
        elif step == "early":
            under_way += circuit.admit_early()
        elif under_way:
            under_way -= 1
            if step == "asked":
                circuit.failed(3)
            else:
                getattr(circuit, step)()
        assert circuit.wait <= POLICY.max_cooldown
        assert (circuit.state is State.OPEN) == (circuit.wait > 0)
    for _ in range(under_way):
        circuit.left()
    clock.now += POLICY.max_cooldown
    assert circuit.admit()
