"""Where keys and values live: slots, in which sequences of different lengths sit side by side.

What a sequence is for and how attention reads it is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

_SMALLEST = 64
"""The capacity of the smallest slots, in tokens; each class has twice that of the one before."""

_FEWEST = 4
"""Slots of an arena that has any; it grows to twice as many, and shrinks by half."""


class Shape(NamedTuple):
    """One layer's keys and values for one token: heads and their sizes."""

    heads: int
    key_size: int
    value_heads: int
    value_size: int

    @property
    def numbers(self) -> int:
        """How many numbers that is."""
        return self.heads * self.key_size + self.value_heads * self.value_size


class NoRoom(Exception):
    """The bound on memory does not allow it, or memory ran out; nothing has changed."""

    def __init__(self, *, ran_out: bool = False) -> None:
        super().__init__("memory ran out" if ran_out else "the bound on memory is reached")
        self.ran_out = ran_out


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, found too little memory."""
    found = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return found or "allocate memory" in str(error)


@dataclass(eq=False, slots=True)
class Place:
    """A sequence's slot: where its keys and values are.

    ``length`` is how many tokens' are valid there. Between ``decoding`` ones and the others runs
    a border in every arena: those that are in every step come first, so that they are one view.
    """

    owner: Any
    arena: Arena
    index: int
    length: int = 0
    decoding: bool = False


class Arena:
    """Slots of one capacity: for each layer two tensors ``[slots, heads, capacity, size]``.

    ``places`` occupy the first slots, without a gap: those that decode first, then the others.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.slots = 0
        self.places: list[Place] = []
        self.decoding = 0
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []


class Slots:
    """All sequences' keys and values, within a bound.

    A dense tensor for all sequences would be as long as the longest: memory and, worse, time of
    every step for everybody. So sequences live in *arenas* by their length, of 64, 128, 256, …
    tokens, and move on when they have outgrown theirs; at most half of a slot is unused. Arenas
    grow and shrink with the sequences in them; with none, no memory is held.

    ``shapes`` is each layer's, ``limit`` the most bytes (0: no bound), ``spare`` is asked for
    bytes to be given up elsewhere before room is refused.

    Example::

        slots = Slots(shapes, torch.float32, device, limit=2**30)
        place = slots.take(owner, tokens=100)
        slots.release(place)
    """

    def __init__(
        self, shapes: Sequence[Shape], dtype: torch.dtype, device: torch.device, limit: int = 0
    ) -> None:
        self.shapes = shapes
        self.limit = limit
        self.bytes = 0
        """What the arenas take now."""
        self._dtype = dtype
        self._device = device
        self.token_bytes = sum(shape.numbers for shape in shapes) * dtype.itemsize
        """What one token's keys and values take in all layers."""
        self._arenas: dict[int, Arena] = {}

    @property
    def arenas(self) -> Iterator[Arena]:
        """Those with sequences in them, the shortest slots first."""
        return (self._arenas[capacity] for capacity in sorted(self._arenas))

    def needed(self, tokens: int) -> int:
        """How many more bytes a sequence of so many tokens would take."""
        arena = self._arenas.get(_capacity(tokens))
        if arena is None:
            return _FEWEST * _capacity(tokens) * self.token_bytes
        full = len(arena.places) == arena.slots
        return arena.slots * arena.capacity * self.token_bytes if full else 0

    def take(self, owner: Any, tokens: int, others: int = 0) -> Place:
        """A slot for at least ``tokens`` tokens. Raises `NoRoom`.

        ``others`` are bytes under the same bound that something else holds.
        """
        arena = self._arena(_capacity(tokens), others)
        place = Place(owner, arena, len(arena.places))
        arena.places.append(place)
        return place

    def extend(self, place: Place, tokens: int, others: int = 0) -> None:
        """Make room for ``tokens`` tokens in all, which may mean to move. Raises `NoRoom`."""
        if tokens <= place.arena.capacity:
            return
        target = self._arena(_capacity(tokens), others)
        source = place.arena
        index = len(target.places)
        for layer in range(len(self.shapes)):
            for old, new in (
                (source.keys[layer], target.keys[layer]),
                (source.values[layer], target.values[layer]),
            ):
                new[index, :, : place.length] = old[place.index, :, : place.length]
        self._leave(place)
        place.arena, place.index = target, index
        target.places.append(place)
        if place.decoding:
            place.decoding = False
            self.start_decoding(place)

    def start_decoding(self, place: Place) -> None:
        """From now on, the sequence is in every step."""
        arena = place.arena
        self._swap(arena, place.index, arena.decoding)
        place.decoding = True
        arena.decoding += 1

    def release(self, place: Place, dirty: bool = False) -> None:
        """Give a slot back; ``dirty``: it may hold numbers that are none, which must not stay.

        What is masked out is multiplied by zero, and NaN times zero is NaN: whoever gets the slot
        next would be contaminated.
        """
        if dirty:
            for tensors in (place.arena.keys, place.arena.values):
                for tensor in tensors:
                    tensor[place.index].zero_()
        self._leave(place)

    def copy(self, place: Place, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The first tokens' keys and values of each layer, as tensors of their own."""
        arena, index = place.arena, place.index
        return [
            (keys[index, :, :length].clone(), values[index, :, :length].clone())
            for keys, values in zip(arena.keys, arena.values, strict=True)
        ]

    def fill(
        self, place: Place, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], length: int
    ) -> None:
        """Begin a sequence with another one's first ``length`` tokens."""
        arena, index = place.arena, place.index
        for layer, (keys, values) in enumerate(layers):
            arena.keys[layer][index, :, :length] = keys[:, :length]
            arena.values[layer][index, :, :length] = values[:, :length]
        place.length = length

    def views(self, place: Place) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each layer's keys and values of a sequence, in place."""
        arena, index = place.arena, place.index
        return [
            (keys[index], values[index])
            for keys, values in zip(arena.keys, arena.values, strict=True)
        ]

    def _arena(self, capacity: int, others: int) -> Arena:
        """An arena of this capacity with a free slot."""
        arena = self._arenas.get(capacity)
        wanted = 0 if arena is None else len(arena.places) + 1
        if arena is not None and wanted <= arena.slots:
            return arena
        slots = _FEWEST if arena is None else arena.slots * 2
        slots = self._affordable(slots, wanted or 1, capacity, arena, others)
        if arena is None:
            arena = Arena(capacity)
        try:
            self._resize(arena, slots)
        except Exception as error:
            if is_out_of_memory(error):
                raise NoRoom(ran_out=True) from error
            raise
        self._arenas[capacity] = arena
        return arena

    def _affordable(
        self, slots: int, least: int, capacity: int, arena: Arena | None, others: int
    ) -> int:
        """As many of the slots as the bound allows. While moving, old and new are both held."""
        if not self.limit:
            return slots
        size = capacity * self.token_bytes
        left = self.limit - others - self.bytes + (arena.slots if arena else 0) * size
        affordable = min(slots, left // size)
        if affordable < least:
            raise NoRoom
        return affordable

    def _resize(self, arena: Arena, slots: int) -> None:
        try:
            self._reallocate(arena, slots)
        finally:
            # Where memory ran out in the middle, only what all layers have can be used.
            tensors = (*arena.keys, *arena.values)
            if len(tensors) == 2 * len(self.shapes):
                usable = min(tensor.shape[0] for tensor in tensors)
                self.bytes += (usable - arena.slots) * arena.capacity * self.token_bytes
                arena.slots = usable

    def _reallocate(self, arena: Arena, slots: int) -> None:
        kept = len(arena.places)
        longest = max((place.length for place in arena.places), default=0)
        for old, sizes in (
            (arena.keys, [(shape.heads, shape.key_size) for shape in self.shapes]),
            (arena.values, [(shape.value_heads, shape.value_size) for shape in self.shapes]),
        ):
            for layer, (heads, size) in enumerate(sizes):
                # Zeros, since what is masked out is still multiplied by zero. On a CPU, pages
                # that nobody writes to take no memory.
                new = torch.zeros(
                    slots, heads, arena.capacity, size, dtype=self._dtype, device=self._device
                )
                if layer < len(old):
                    new[:kept, :, :longest] = old[layer][:kept, :, :longest]
                    old[layer] = new
                else:
                    old.append(new)

    def _leave(self, place: Place) -> None:
        """Take a sequence out of its arena, and close the gap: by the border's, then the last."""
        arena = place.arena
        if place.decoding:
            arena.decoding -= 1
            self._move(arena, arena.decoding, place.index)
            place.index = arena.decoding  # the gap is there now
        self._move(arena, len(arena.places) - 1, place.index)
        arena.places.pop()
        if not arena.places:
            del self._arenas[arena.capacity]
            self.bytes -= arena.slots * arena.capacity * self.token_bytes
        elif len(arena.places) <= arena.slots // 4 and arena.slots > _FEWEST:
            with suppress(MemoryError, RuntimeError):  # no memory to make it smaller: then not
                self._resize(arena, arena.slots // 2)

    def _move(self, arena: Arena, source: int, target: int) -> None:
        if source == target:
            return
        place = arena.places[source]
        for tensors in (arena.keys, arena.values):
            for tensor in tensors:
                tensor[target, :, : place.length] = tensor[source, :, : place.length]
                if not place.decoding:  # nobody knows yet whether they are numbers: see `release`
                    tensor[source, :, : place.length] = 0
        arena.places[target] = place
        place.index = target

    def _swap(self, arena: Arena, one: int, other: int) -> None:
        if one == other:
            return
        places = arena.places
        longest = max(places[one].length, places[other].length)
        tensors = (*arena.keys, *arena.values)
        # All copies first: where there is no memory for them, nothing has changed.
        copies = [tensor[one, :, :longest].clone() for tensor in tensors]
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor[one, :, :longest] = tensor[other, :, :longest]
            tensor[other, :, :longest] = copy
        places[one], places[other] = places[other], places[one]
        places[one].index, places[other].index = one, other


def _capacity(tokens: int) -> int:
    return max(_SMALLEST, 1 << (tokens - 1).bit_length())
