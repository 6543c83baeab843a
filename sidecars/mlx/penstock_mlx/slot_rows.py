"""Rows of keys and values in arrays of our own, where a text may come and go without a copy of all.

For models that remember nothing but keys and values; others have ``rows``'.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache

# By how much room is made at a time, in tokens and in rows: making it copies everything.
_TOKENS = 64
_ROWS = 4


class SlotRows:
    """Rows of keys and values, for models that remember nothing else.

    All rows end at the same place of the same arrays, so that a step writes one column, and begin
    wherever their length says; what is before that is masked. Where a row goes, the last one takes
    its place, and a new row is written where there is room: mlx-lm's own ``BatchKVCache`` copies
    all rows whenever one comes or goes, which at 64 rows takes longer than computing a token.

    mlx writes into an array in place only where nothing else refers to its memory, computations
    that are under way included; so nobody may go on before the step before has been computed.
    """

    def __init__(self, layers: int) -> None:
        self.caches: list[Any] = [_Slots(self) for _ in range(layers)]
        self.lengths: list[int] = []
        self.end = 0
        """Where all rows end; of the step that is being computed, with its token."""
        self.room = 0
        self.rows_room = 0
        self.offsets: mx.array | None = None
        """How long each row was before the step that is being computed, and after it."""
        self.offsets_after: mx.array | None = None
        self.mask: mx.array | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def add(self, caches: Sequence[Any], length: int) -> None:
        """See `Rows.add`."""
        self._make_room(len(self.lengths) + 1, max(self.longest, length), length)
        row = len(self.lengths)
        for own, cache in zip(self.caches, caches, strict=True):
            own.write(row, cache, length)
        self.lengths.append(length)

    def remove(self, gone: Collection[int]) -> list[int]:
        """See `Rows.remove`."""
        left = len(self.lengths) - len(gone)
        order = list(range(left))
        holes = [row for row in order if row in gone]
        movers = [row for row in range(left, len(self.lengths)) if row not in gone]
        if not left:
            self._clear()
        elif holes:
            moved = [cache.copies(movers) for cache in self.caches]
            mx.eval(moved)  # while nothing refers to what is written to next
            for cache, rows in zip(self.caches, moved, strict=True):
                cache.put(holes, rows)
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        self.lengths = [self.lengths[row] for row in order]
        return order

    def grow(self) -> None:
        """See `Rows.grow`."""
        self._make_room(len(self.lengths), self.longest + 1, 0)
        self.offsets = mx.array(self.lengths)
        self.lengths = [length + 1 for length in self.lengths]
        self.offsets_after = mx.array(self.lengths)
        self.end += 1
        longest = self.longest
        self.mask = None
        if min(self.lengths) < longest:
            first = mx.array([longest - length for length in self.lengths])
            self.mask = mx.arange(longest) >= first[:, None, None, None]
        for cache in self.caches:
            cache.grown = False

    def take_out(self, row: int) -> list[Any]:
        """See `Rows.take_out`."""
        return [cache.take_out(row, self.lengths[row]) for cache in self.caches]

    @property
    def nbytes(self) -> int:
        """See `Rows.nbytes`."""
        return sum(cache.nbytes for cache in self.caches)

    def _make_room(self, rows: int, longest: int, new: int) -> None:
        """Have room for so many rows, and all end where so many tokens fit before it."""
        ahead = 0 if new else 1
        if not self.lengths and new:
            self._clear()
        enough = rows <= self.rows_room and self.end + ahead <= self.room
        if enough and new <= self.end and self.rows_room:
            return
        live = self.longest
        rows_room = max(self.rows_room, -(-rows // _ROWS) * _ROWS)
        room = -(-(longest + max(_TOKENS, longest // 4)) // _TOKENS) * _TOKENS
        end = max(live, new)
        for cache in self.caches:
            cache.lay_out(rows_room, room, len(self.lengths), live, self.end, end)
        self.rows_room, self.room, self.end = rows_room, room, end

    def _clear(self) -> None:
        self.end = self.room = self.rows_room = 0
        for cache in self.caches:
            cache.keys = cache.values = None


class _Slots:
    """One layer of `SlotRows`, as mlx-lm's models use a cache."""

    def __init__(self, rows: SlotRows) -> None:
        self._rows = rows
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.grown = False

    @property
    def offset(self) -> mx.array | None:
        return self._rows.offsets_after if self.grown else self._rows.offsets

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        rows = self._rows
        if self.keys is None or self.values is None:
            self.keys = _empty(keys, rows.rows_room, rows.room)
            self.values = _empty(values, rows.rows_room, rows.room)
        count, end = len(rows), rows.end
        begin = end - rows.longest
        self.keys[:count, :, end - 1 : end] = keys
        self.values[:count, :, end - 1 : end] = values
        self.grown = True
        return self.keys[:count, :, begin:end], self.values[:count, :, begin:end]

    def make_mask(self, N: int, return_array: bool = False, **options: Any) -> mx.array | None:
        rows = self._rows
        if N == 1 and options.get("window_size") is None and not return_array:
            return rows.mask
        padding = mx.array([rows.longest - length for length in rows.lengths])
        mask: mx.array = create_causal_mask(
            N, offset=rows.longest - N, left_padding=padding, **options
        )
        return mask

    def size(self) -> int:
        return self._rows.longest

    def empty(self) -> bool:
        return self.keys is None

    def is_trimmable(self) -> bool:
        return False

    @property
    def state(self) -> Any:
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        if self.keys is None or self.values is None:
            return 0
        return int(self.keys.nbytes + self.values.nbytes)

    def write(self, row: int, cache: Any, length: int) -> None:
        if not length:
            return  # nothing of it is looked at before it is written
        rows = self._rows
        if self.keys is None or self.values is None:
            self.keys = _empty(cache.keys, rows.rows_room, rows.room)
            self.values = _empty(cache.values, rows.rows_room, rows.room)
        # With nothing before it: what is masked counts times zero, which is not zero where an
        # earlier row left infinity.
        before = [(0, 0), (0, 0), (rows.end - length, 0), (0, 0)]
        self.keys[row : row + 1, :, : rows.end] = mx.pad(cache.keys[..., :length, :], before)
        self.values[row : row + 1, :, : rows.end] = mx.pad(cache.values[..., :length, :], before)

    def copies(self, movers: Sequence[int]) -> tuple[mx.array, mx.array] | None:
        if self.keys is None or self.values is None:
            return None
        which, end = mx.array(list(movers)), self._rows.end
        return mx.take(self.keys[:, :, :end], which, 0), mx.take(self.values[:, :, :end], which, 0)

    def put(self, holes: Sequence[int], moved: tuple[mx.array, mx.array] | None) -> None:
        if self.keys is None or self.values is None or moved is None:
            return
        end = self._rows.end
        for place, row in enumerate(holes):
            self.keys[row : row + 1, :, :end] = moved[0][place : place + 1]
            self.values[row : row + 1, :, :end] = moved[1][place : place + 1]

    def lay_out(
        self, rows_room: int, room: int, count: int, live: int, old_end: int, end: int
    ) -> None:
        """Move everything to arrays of another size, to end elsewhere."""
        if self.keys is None or self.values is None:
            return
        keys, values = self.keys, self.values
        self.keys = _empty(keys, rows_room, room)
        self.values = _empty(values, rows_room, room)
        if count and live:
            kept = keys[:count, :, old_end - live : old_end]
            self.keys[:count, :, end - live : end] = kept
            self.values[:count, :, end - live : end] = values[:count, :, old_end - live : old_end]

    def take_out(self, row: int, length: int) -> Any:
        cache: Any = KVCache()  # type: ignore[no-untyped-call]
        if self.keys is None or self.values is None or not length:
            return cache
        end = self._rows.end
        cache.keys = mx.contiguous(self.keys[row : row + 1, :, end - length : end] + 0)
        cache.values = mx.contiguous(self.values[row : row + 1, :, end - length : end] + 0)
        cache.offset = length
        return cache


def _empty(like: mx.array, rows: int, room: int) -> mx.array:
    heads, size = like.shape[1], like.shape[3]
    return mx.zeros((rows, heads, room, size), like.dtype)
