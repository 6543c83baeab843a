"""Keys and values of what has been computed before, for prompts that begin alike.

System prompts and growing conversations make most prompts begin as an earlier one did. Which
sequences run now is not known here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]

SHORTEST = 16
"""Fewer tokens in common are computed sooner than they are looked for and copied."""


class Entry:
    """What is kept of a sequence: its tokens, and each layer's keys and values for them."""

    def __init__(self, tokens: Tokens, layers: Layers) -> None:
        self.tokens = tokens
        self.layers = layers
        self.bytes = sum(k.nbytes + v.nbytes for k, v in layers)


class Prefixes:
    """Beginnings of sequences, the least recently used going first.

    Example::

        prefixes.keep(tokens, layers)
        entry, length = prefixes.longest(prompt)
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._by_beginning: dict[bytes, list[int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def longest(self, tokens: Tokens) -> tuple[Entry | None, int]:
        """The entry that has the most tokens in common with a sequence, and how many."""
        best, length = None, 0
        for number in self._like(tokens):
            shared = common(self._entries[number].tokens, tokens)
            if shared > length:
                best, length = number, shared
        if best is None or length < SHORTEST:
            return None, 0
        self._entries.move_to_end(best)
        return self._entries[best], length

    def known(self, tokens: Tokens) -> bool:
        """Whether an entry begins with all of these tokens."""
        return any(
            common(self._entries[number].tokens, tokens) == len(tokens)
            for number in self._like(tokens)
        )

    def keep(self, tokens: Tokens, layers: Layers) -> None:
        """Keep a sequence; those that it goes on from are no longer needed."""
        for number in self._like(tokens):
            other = self._entries[number].tokens
            if common(other, tokens) == len(other):
                self._forget(number)
        entry = Entry(tokens, layers)
        self._entries[self._next] = entry
        self._by_beginning.setdefault(_beginning(tokens), []).append(self._next)
        self._next += 1
        self.bytes += entry.bytes

    def shrink(self, most: int) -> None:
        """Forget the least recently used until there are at most so many bytes."""
        while self._entries and self.bytes > most:
            self._forget(next(iter(self._entries)))

    def _like(self, tokens: Tokens) -> Sequence[int]:
        return list(self._by_beginning.get(_beginning(tokens), ()))

    def _forget(self, number: int) -> None:
        entry = self._entries.pop(number)
        self.bytes -= entry.bytes
        beginning = _beginning(entry.tokens)
        self._by_beginning[beginning].remove(number)
        if not self._by_beginning[beginning]:
            del self._by_beginning[beginning]


def common(one: Tokens, other: Tokens) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def _beginning(tokens: Tokens) -> bytes:
    return tokens[:SHORTEST].tobytes()


def as_tokens(tokens: Sequence[int]) -> Tokens:
    """In the form that is compared here."""
    return np.asarray(tokens, dtype=np.int64)


__all__ = ["SHORTEST", "Entry", "Prefixes", "Tokens", "as_tokens", "common"]
