"""Not computing what has been computed: a row takes over how its prompt begins.

From what is kept of finished answers, which is ``prefixes``' to find, or from another row that is
computing the same right now.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import torch

from penstock_hf.prefixes import SHORTEST, Prefixes, as_tokens, common
from penstock_hf.rows import Row
from penstock_hf.slots import Slots


class Sharing:
    """Beginnings that rows of the same ``slots`` have in common, and those of ``prefixes``.

    A row that begins as another one *follows* it: it waits until the other one has computed what
    they share, and copies that.
    """

    def __init__(self, slots: Slots, prefixes: Prefixes) -> None:
        self._slots = slots
        self._prefixes = prefixes

    def begin(self, row: Row, others: Iterable[Row]) -> None:
        """Take over what has been computed of the row's tokens; the last is always computed."""
        own = row.prompt[:-1]
        entry, length = self._prefixes.longest(own)
        best: Row | None = None
        for other in others:
            if other.dirty or len(own) < SHORTEST or len(other.prompt) < SHORTEST:
                continue
            shared = common(other.prompt, own)
            if shared >= length + SHORTEST:
                best, length = other, shared
        if best is not None:
            row.leader, row.shared = best, length
            if self.follow(row):
                return
        if entry is not None:
            self._slots.fill(row.place, entry.layers, common(entry.tokens, own))

    def follow(self, row: Row) -> bool:
        """Take over the leader's, once it is there; whether the row may go on."""
        leader = row.leader
        if leader is None:
            return True
        if leader.place.length < row.shared:
            return False
        self._slots.fill(row.place, self._slots.views(leader.place), row.shared)
        row.leader = None
        return True

    def part_ways(self, row: Row) -> None:
        """Take over as much as the leader has, which is about to leave."""
        leader, row.leader = row.leader, None
        assert leader is not None
        length = min(row.shared, leader.place.length)
        if not leader.dirty and length > row.place.length:
            self._slots.fill(row.place, self._slots.views(leader.place), length)
        if not row.job.written:
            row.job.cached = row.place.length

    def keep(self, row: Row) -> None:
        """Keep what the row has computed for prompts to come, where there is room for it."""
        length = row.place.length
        if length < SHORTEST or not self._room_for(length * self._slots.token_bytes):
            return
        tokens = as_tokens(row.job.tokens[:length])
        if not self._prefixes.known(tokens):
            with suppress(MemoryError, torch.OutOfMemoryError):
                self._prefixes.keep(tokens, self._slots.copy(row.place, length))

    def bound(self) -> None:
        """Forget what the slots need the room of."""
        if self._slots.limit:
            self._prefixes.shrink(max(0, self._slots.limit - self._slots.bytes))

    def _room_for(self, size: int) -> bool:
        """Whether so many bytes may be kept: of the bound, beginnings have at most half."""
        limit = self._slots.limit
        if not limit:
            return True
        if size > limit // 2:
            return False
        self._prefixes.shrink(max(0, limit // 2 - size))
        return self._prefixes.bytes + size + self._slots.bytes <= limit
