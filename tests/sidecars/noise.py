"""The noise that tokens are drawn by, number by number: what both sidecars' arrays must hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from penstock import v1
from penstock_server.local.sampling import ROUNDS, SALT, Defaults, SamplingParams

KEY = SamplingParams(v1.Sampling(seed=7), Defaults()).key(3)
IDS = [0, 1, 2, 31_999, 151_643, 262_143]


def noise(key: tuple[int, int] = KEY, ids: Sequence[int] = IDS) -> list[float]:
    """As `SamplingParams` says it."""
    found = []
    for token in ids:
        mixed = token * SALT % 2**32
        for half in key:
            mixed = (mixed + half) % 2**32
            for shift, factor in ROUNDS:
                mixed = (mixed ^ mixed >> shift) * factor % 2**32
        found.append(-math.log(-math.log1p(-(mixed % 2**31 + 0.5) / 2**31)))
    return found
