"""Slots, by any order of calls: what was written is found again, and memory is accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from penstock_hf import slots as module
from penstock_hf.slots import NoRoom, Place, Shape, Slots

SHAPES = [Shape(2, 3, 2, 3), Shape(1, 2, 1, 4)]  # a layer whose values are longer than its keys
TOKEN_BYTES = 4 * (2 * 3 + 2 * 3 + 2 + 4)


@dataclass(eq=False)
class Written:
    """What the model of the tests knows of a sequence: the number that each token's keys are."""

    place: Place
    numbers: list[float] = field(default_factory=list)
    damaged: bool = False


class Failing:
    """The module ``torch``, whose ``zeros`` finds no memory at one of its next calls."""

    def __init__(self, after: int) -> None:
        self._left = after

    def zeros(self, *size: int, **options: Any) -> torch.Tensor:
        self._left -= 1
        if self._left == -1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.zeros(*size, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def memory_for(allocations: int | None) -> Iterator[None]:
    """So many tensors can be made, and then one cannot; None: all can."""
    if allocations is not None:
        module.torch = Failing(allocations)  # type: ignore[assignment, attr-defined]
    try:
        yield
    finally:
        module.torch = torch  # type: ignore[attr-defined]


def tensors(slots: Slots) -> list[torch.Tensor]:
    return [tensor for arena in slots.arenas for tensor in (*arena.keys, *arena.values)]


class Machine(RuleBasedStateMachine):
    """Sequences begin, grow, decode and leave; now and then there is no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.begin(0)

    @initialize(slots=st.integers(0, 40))
    def begin(self, slots: int) -> None:
        """A bound of so many of the smallest slots; 0: none."""
        self.slots = Slots(SHAPES, torch.float32, torch.device("cpu"), slots * 64 * TOKEN_BYTES)
        self.there: list[Written] = []
        self.next = 1.0
        self.ran_out = False
        self.refused = 0

    # Usually short, so that many are in one arena.
    SHORT = st.integers(1, 64)
    # Others' bytes under the same bound, and whether memory runs out.
    others = st.sampled_from([0, 0, 64 * TOKEN_BYTES])
    memory = st.one_of(st.none(), st.none(), st.integers(0, 5))

    which = st.integers(0, 50)
    """Which of the sequences that there are: not one that has gone."""
    anyone = precondition(lambda self: self.there)

    @rule(tokens=SHORT | SHORT | st.integers(1, 300), others=others, memory=memory)
    def take(self, tokens: int, others: int, memory: int | None) -> None:
        self._take(tokens, others, memory)

    def _take(self, tokens: int, others: int, memory: int | None) -> Written | None:
        place = self._try(lambda: self.slots.take(self.next, tokens, others), memory)
        if place is None:
            return None
        assert place.arena.capacity >= tokens
        assert not place.decoding
        self.there.append(Written(place))
        return self.there[-1]

    @rule(tokens=SHORT, damaged=st.booleans())
    def join(self, tokens: int, damaged: bool) -> None:
        """What usually happens, so that many are there: a whole prompt, and then its answer."""
        sequence = self._take(tokens, 0, None)
        if sequence is not None:
            self._write(sequence, tokens, damaged)
            self._start_decoding(sequence)

    @anyone
    @rule(which=which, tokens=st.integers(1, 80), damaged=st.sampled_from([False, False, True]))
    def write(self, which: int, tokens: int, damaged: bool) -> None:
        """A model computes more of a sequence; of what is no number, it has not told yet."""
        sequence = self._one(which)
        self._write(sequence, tokens, damaged and not sequence.place.decoding)

    @anyone
    @rule(which=which, more=st.integers(1, 200), others=others, memory=memory)
    def extend(self, which: int, more: int, others: int, memory: int | None) -> None:
        sequence = self._one(which)
        wanted = len(sequence.numbers) + more
        if sequence.damaged:
            return
        decoding = sequence.place.decoding
        before = self.refused
        self._try(lambda: self.slots.extend(sequence.place, wanted, others), memory)
        if self.refused == before:
            assert sequence.place.arena.capacity >= wanted
        assert sequence.place.decoding == decoding

    @anyone
    @rule(which=which)
    def start_decoding(self, which: int) -> None:
        self._start_decoding(self._one(which))

    @anyone
    @rule(which=which, source=which, share=st.floats(0, 1))
    def fill(self, which: int, source: int, share: float) -> None:
        """Begin as another one does."""
        sequence, other = self._one(which), self._one(source)
        if sequence.numbers or other is sequence or other.damaged:
            return
        length = min(int(len(other.numbers) * share), sequence.place.arena.capacity)
        copied = length % 2
        views = self.slots.copy(other.place, length) if copied else self.slots.views(other.place)
        self.slots.fill(sequence.place, views, length)
        sequence.numbers = other.numbers[:length]

    @anyone
    @rule(which=which, memory=memory)
    def release(self, which: int, memory: int | None) -> None:
        sequence = self._one(which)
        self.there.remove(sequence)
        place = sequence.place
        self.ran_out |= memory is not None  # smaller arenas are made of memory, too
        with memory_for(memory):
            self.slots.release(place, dirty=not place.decoding)

    @rule(share=st.floats(0, 1), memory=memory)
    def many_leave(self, share: float, memory: int | None) -> None:
        for _ in range(int(len(self.there) * share)):
            self.release(int(share * 1_000), memory)

    def _one(self, which: int) -> Written:
        return self.there[which % len(self.there)]

    def _write(self, sequence: Written, tokens: int, damaged: bool = False) -> None:
        place = sequence.place
        end = min(place.length + tokens, place.arena.capacity)
        sequence.damaged |= damaged and end > place.length
        for at in range(place.length, end):
            sequence.numbers.append(math.nan if damaged else self.next)
            self.next += 1
            for tensor in (*place.arena.keys, *place.arena.values):
                tensor[place.index, :, at] = sequence.numbers[-1]
        place.length = end

    def _start_decoding(self, sequence: Written) -> None:
        # Only those whose scores have come, so that their keys are numbers.
        if sequence.numbers and not sequence.damaged and not sequence.place.decoding:
            self.slots.start_decoding(sequence.place)

    def _try(self, call: Callable[[], Place | None], memory: int | None) -> Place | None:
        before = [(w.place.arena, w.place.index, w.place.decoding) for w in self.there]
        ran_out = False
        try:
            with memory_for(memory):
                return call()
        except NoRoom as error:
            ran_out = error.ran_out
        self.ran_out |= ran_out
        self.refused += 1
        assert self.slots.limit or ran_out
        assert before == [(w.place.arena, w.place.index, w.place.decoding) for w in self.there]
        return None

    @invariant()
    def what_was_written_is_found(self) -> None:
        for written in self.there:
            place, length = written.place, len(written.numbers)
            assert place.length == length
            expected = torch.tensor(written.numbers)
            for shape, keys, values in zip(
                SHAPES, place.arena.keys, place.arena.values, strict=True
            ):
                assert keys.shape[1:] == (shape.heads, place.arena.capacity, shape.key_size)
                for tensor in (keys[place.index, :, :length], values[place.index, :, :length]):
                    wanted = expected[None, :, None].expand_as(tensor)
                    assert torch.equal(tensor.nan_to_num(-1), wanted.nan_to_num(-1))

    @invariant()
    def places_stand_side_by_side_those_that_decode_first(self) -> None:
        held = [place for arena in self.slots.arenas for place in arena.places]
        assert {id(place) for place in held} == {id(written.place) for written in self.there}
        for arena in self.slots.arenas:
            assert arena.places, "an arena without a sequence"
            assert [place.index for place in arena.places] == list(range(len(arena.places)))
            decoding = [place.decoding for place in arena.places]
            assert decoding == sorted(decoding, reverse=True)
            assert sum(decoding) == arena.decoding
            assert all(place.arena is arena for place in arena.places)
            assert len(arena.places) <= arena.slots

    @invariant()
    def those_that_decode_see_nothing_but_numbers(self) -> None:
        """One view goes over all of them, as long as the longest: others' rests are in sight."""
        for arena in self.slots.arenas:
            longest = max((p.length + 1 for p in arena.places[: arena.decoding]), default=0)
            for tensor in (*arena.keys, *arena.values):
                assert bool(tensor[: arena.decoding, :, :longest].isfinite().all())

    @invariant()
    def bytes_are_right_and_bounded(self) -> None:
        slots = self.slots
        assert slots.bytes == sum(a.slots * a.capacity for a in slots.arenas) * TOKEN_BYTES
        held = sum(tensor.nbytes for tensor in tensors(slots))
        # Where memory ran out in the middle, some layers may have more than is counted.
        assert held >= slots.bytes if self.ran_out else held == slots.bytes
        assert not slots.limit or slots.bytes <= slots.limit

    def teardown(self) -> None:
        for written in self.there:
            self.slots.release(written.place, dirty=not written.place.decoding)
        assert self.slots.bytes == 0
        assert not tensors(self.slots)


def filled(slots: Slots, count: int) -> list[Written]:
    """So many short sequences that decode."""
    machine = Machine()
    machine.slots = slots
    for _ in range(count):
        machine.join(10, damaged=False)
    return machine.there


Machine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=80, deadline=None, derandomize=True
)
TestSlots = Machine.TestCase


def test_what_is_needed_is_what_is_taken() -> None:
    slots = Slots(SHAPES, torch.float32, torch.device("cpu"))
    assert slots.token_bytes == TOKEN_BYTES
    for tokens in [1, 64, 65, 128, 129, 60, 60, 60, 60, 60, 200]:
        before, needed = slots.bytes, slots.needed(tokens)
        slots.take("owner", tokens)
        assert slots.bytes - before == needed


@pytest.mark.parametrize("limit", [1, 3, 6])
def test_a_bound_allows_what_fits_and_no_more(limit: int) -> None:
    # Arenas usually begin with four slots; under a bound, with as many as there is room for.
    slots = Slots(SHAPES, torch.float32, torch.device("cpu"), limit * 64 * TOKEN_BYTES)
    places = [slots.take("owner", 64) for _ in range(limit)]
    with pytest.raises(NoRoom) as caught:
        slots.take("owner", 1)
    assert not caught.value.ran_out
    assert slots.bytes == slots.limit
    for place in places:
        slots.release(place)
    assert slots.bytes == 0


@pytest.mark.parametrize("allocations", range(5))
def test_without_memory_to_make_an_arena_smaller_it_stays_as_it_is(allocations: int) -> None:
    slots = Slots(SHAPES, torch.float32, torch.device("cpu"))
    there = filled(slots, 16)
    held = slots.bytes
    with memory_for(allocations):
        for written in there[4:]:
            slots.release(written.place)
    for written in there[:4]:
        [arena] = slots.arenas
        assert arena.places[written.place.index] is written.place
        found = arena.values[1][written.place.index, 0, :10, 0]
        assert found.tolist() == written.numbers
    # Smaller only once all layers are: half of them cannot be used, however large the others.
    assert slots.bytes == arena.slots * 64 * TOKEN_BYTES <= held
    assert arena.slots == min(tensor.shape[0] for tensor in tensors(slots))
    more = filled(slots, 20)  # and it grows again
    assert [w.place.index for w in more] == list(range(4, 24))
    for written in (*there[:4], *more):
        slots.release(written.place)
    assert slots.bytes == 0


@pytest.mark.parametrize("allocations", range(4))
def test_without_memory_for_a_larger_arena_nothing_changes(allocations: int) -> None:
    slots = Slots(SHAPES, torch.float32, torch.device("cpu"))
    there = filled(slots, 4)
    held = slots.bytes
    with memory_for(allocations), pytest.raises(NoRoom) as caught:
        slots.take("owner", 1)
    assert caught.value.ran_out
    assert slots.bytes == held
    [arena] = slots.arenas
    assert (arena.slots, len(arena.places)) == (4, 4)
    more = filled(slots, 8)
    for written in (*there, *more):
        found = written.place.arena.keys[0][written.place.index, 1, :10, 2]
        assert found.tolist() == written.numbers
    assert slots.bytes == 16 * 64 * TOKEN_BYTES


def test_what_is_no_number_stays_in_no_slot() -> None:
    # Given up half computed, moved half computed: either way, somebody else comes there.
    slots = Slots(SHAPES, torch.float32, torch.device("cpu"))
    first, second = filled(slots, 2)
    machine = Machine()
    machine.slots, machine.there = slots, [first, second]
    machine.join(50, damaged=True)
    damaged = machine.there[-1]
    assert damaged.place.index == 2
    slots.release(second.place)
    assert damaged.place.index == 1  # it has moved
    slots.release(damaged.place, dirty=True)
    for tensor in tensors(slots):
        assert bool(tensor.isfinite().all())
