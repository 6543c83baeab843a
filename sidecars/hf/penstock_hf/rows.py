"""Who is in a batch, and what of it is in one step.

Which tokens a step should have is ``batch``'s to decide, how they are looked at ``attention``'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from penstock_server.local.job import Job

from penstock_hf.attention import Decoding, Part
from penstock_hf.prefixes import Tokens
from penstock_hf.sampling import Draw
from penstock_hf.slots import Place


@dataclass(eq=False, slots=True)
class Row:
    """A job in the batch: its place, and how its tokens are drawn."""

    job: Job
    draw: Draw
    place: Place
    prompt: Tokens
    """What had to be computed when it joined."""
    leader: Row | None = None
    """Who is computing what this one begins with, too."""
    shared: int = 0
    """How many tokens that is."""
    dirty: bool = False
    """Its keys and values may be no numbers."""

    @property
    def left(self) -> int:
        """Tokens still to be computed before the next one can be drawn."""
        return len(self.job.tokens) - self.place.length


@dataclass(slots=True)
class Step:
    """What is computed in one step: rows with the tokens that are theirs."""

    decoding: list[Row] = field(default_factory=list)
    parts: list[tuple[Row, int]] = field(default_factory=list)

    @property
    def rows(self) -> Iterator[tuple[Row, int]]:
        """All of them, each with how many tokens."""
        yield from ((row, 1) for row in self.decoding)
        yield from self.parts


def lay_decoding(rows: Sequence[Row], counting: torch.Tensor) -> Iterator[Decoding]:
    """One token for each of the rows, which are whole arenas' decoding ones in their order.

    ``counting`` is 0, 1, …, for at least as many.
    """
    start = 0
    while start < len(rows):
        arena = rows[start].place.arena
        end = start + arena.decoding
        lengths = [row.place.length for row in rows[start:end]]
        positions = torch.tensor(lengths, device=counting.device)
        yield Decoding(arena, start, end, counting[: end - start], positions, max(lengths) + 1)
        start = end


def lay_parts(parts: Sequence[tuple[Row, int]], start: int) -> list[Part]:
    """The rows' next tokens, so many of each, from the place ``start`` of the step on."""
    laid: list[Part] = []
    for row, count in parts:
        laid.append(Part(row.place, start, start + count, row.place.length))
        start += count
    return laid
