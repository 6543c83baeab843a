"""Caches of what has been computed before, for prompts that begin alike.

System prompts and growing conversations make most prompts begin as an earlier one did. Which
texts are computed now is not known here.

mlx-lm's own ``LRUPromptCache`` keeps every token as a node of a tree, copies a whole cache to use
a part of it, and looks through all that follows a common beginning for the shortest.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from mlx_lm.models.cache import (
    CacheList,
    KVCache,
    RotatingKVCache,
    can_trim_prompt_cache,
    trim_prompt_cache,
)
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

SHORTEST = 16
"""Fewer tokens in common are computed sooner than they are looked for and copied."""

_MOST = 512
"""Entries: each that begins like a prompt is compared with it."""


class Entry:
    """What is kept of a text: its tokens, and each layer's cache of exactly those."""

    def __init__(self, tokens: Tokens, caches: Sequence[Any]) -> None:
        self.tokens = tokens
        self.caches = caches
        self.bytes = sum(cache.nbytes for cache in caches)

    def beginning(self, length: int) -> list[Any]:
        """Caches of its first tokens, which may be gone on from without changing it."""
        if all(type(cache) is KVCache for cache in self.caches):
            return [_first(cache, length) for cache in self.caches]
        caches = copy.deepcopy(list(self.caches))
        trim_prompt_cache(caches, len(self.tokens) - length)
        return caches


class Prefixes:
    """Beginnings of texts, the least recently used going first.

    Example::

        prefixes.keep(tokens, caches)
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
        """The entry that has the most tokens in common with a text, and how many."""
        best, length = None, 0
        for number in self._like(tokens):
            shared = common(self._entries[number].tokens, tokens)
            if shared > length:
                best, length = number, shared
        if best is None or length < SHORTEST:
            return None, 0
        self._entries.move_to_end(best)
        return self._entries[best], length

    def keep(self, tokens: Tokens, caches: Sequence[Any]) -> None:
        """Keep a text, where it is of use; those that it goes on from are no longer needed."""
        if len(tokens) < SHORTEST or not _can_be_cut(caches):
            return
        for number in self._like(tokens):
            other = self._entries[number].tokens
            shared = common(other, tokens)
            if shared == len(tokens):
                self._entries.move_to_end(number)
                return
            if shared == len(other):
                self._forget(number)
        entry = Entry(tokens, caches)
        self._entries[self._next] = entry
        self._by_beginning.setdefault(_beginning(tokens), []).append(self._next)
        self._next += 1
        self.bytes += entry.bytes

    def shrink(self, most: int) -> None:
        """Forget the least recently used until there are at most so many bytes."""
        while self._entries and (self.bytes > most or len(self._entries) > _MOST):
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
    """How many tokens two texts begin with alike."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def as_tokens(tokens: Sequence[int]) -> Tokens:
    """In the form that is compared here."""
    return np.asarray(tokens, dtype=np.int32)


def _can_be_cut(caches: Sequence[Any]) -> bool:
    """Whether the caches of a beginning can be made of them.

    Others say so of themselves too (``ChunkedKVCache``), and have forgotten what it would take.
    """
    if not all(type(cache) in (KVCache, RotatingKVCache, CacheList) for cache in caches):
        return False
    inner = [one for cache in caches if type(cache) is CacheList for one in cache.caches]
    return can_trim_prompt_cache(list(caches)) and (not inner or _can_be_cut(inner))


def _first(cache: Any, length: int) -> Any:
    # A view: what is written after it goes to a larger copy.
    first = KVCache()  # type: ignore[no-untyped-call]
    first.keys = cache.keys[..., :length, :]
    first.values = cache.values[..., :length, :]
    first.offset = length
    return first


def _beginning(tokens: Tokens) -> bytes:
    return tokens[:SHORTEST].tobytes()


__all__ = ["SHORTEST", "Entry", "Prefixes", "Tokens", "as_tokens", "common"]
