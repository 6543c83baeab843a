"""The caches of many texts at once: one row for each text, in every layer of the model.

A row comes with what its prompt computed alone, grows by a token with each step, and goes. Which
text is in which row, and what is computed, is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol


class Rows(Protocol):
    """What holds the rows. ``caches`` is what the model is called with."""

    caches: list[Any]

    def __len__(self) -> int: ...

    def add(self, caches: Sequence[Any], length: int) -> None:
        """Take in a text by the caches of its first ``length`` tokens, as the last row."""
        ...

    def remove(self, gone: Collection[int]) -> list[int]:
        """Forget rows; returns which row now stands in each place."""
        ...

    def grow(self) -> None:
        """Make ready for the model's next step, which gives every row one more token."""
        ...

    def take_out(self, row: int) -> list[Any]:
        """A row's caches as they would be had it been alone: a copy."""
        ...

    @property
    def nbytes(self) -> int:
        """The memory that it takes, room for more included."""
        ...


class MergedRows:
    """Rows in mlx-lm's own caches for batches: for sliding windows, recurrent states and the like.

    They are copied whenever a row comes or goes.
    """

    def __init__(self) -> None:
        self.caches: list[Any] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, caches: Sequence[Any], length: int) -> None:
        """See `Rows.add`."""
        new = [cache.merge([cache]) for cache in caches]
        if self._count:
            for own, other in zip(self.caches, new, strict=True):
                own.extend(other)
        else:
            self.caches = new
        self._count += 1

    def remove(self, gone: Collection[int]) -> list[int]:
        """See `Rows.remove`."""
        order = [row for row in range(self._count) if row not in gone]
        if order:
            for cache in self.caches:
                cache.filter(order)
        else:
            self.caches = []
        self._count = len(order)
        return order

    def grow(self) -> None:
        """See `Rows.grow`: these grow by themselves."""

    def take_out(self, row: int) -> list[Any]:
        """See `Rows.take_out`."""
        return [cache.extract(row) for cache in self.caches]

    @property
    def nbytes(self) -> int:
        """See `Rows.nbytes`."""
        return sum(cache.nbytes for cache in self.caches)


class SingleRow:
    """One text, in the model's own caches: for models whose caches hold only one."""

    def __init__(self) -> None:
        self.caches: list[Any] = []

    def __len__(self) -> int:
        return 1 if self.caches else 0

    def add(self, caches: Sequence[Any], length: int) -> None:
        """See `Rows.add`."""
        if self.caches:
            raise RuntimeError("there is room for one text only")
        self.caches = list(caches)

    def remove(self, gone: Collection[int]) -> list[int]:
        """See `Rows.remove`."""
        if gone:
            self.caches = []
        return [0] if self.caches else []

    def grow(self) -> None:
        """See `Rows.grow`: these grow by themselves."""

    def take_out(self, row: int) -> list[Any]:
        """See `Rows.take_out`; nothing else is in it, so that it need not be a copy."""
        return self.caches

    @property
    def nbytes(self) -> int:
        """See `Rows.nbytes`."""
        return sum(cache.nbytes for cache in self.caches)
