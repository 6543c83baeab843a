"""How much is tried: little and always the same with the tests, as much as asked for otherwise.

``FUZZ_TIMES`` is a factor, and what is tried is then by chance: ``make fuzz`` sets it, and
prints the seed.
"""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, Phase, settings

FACTOR = float(os.environ.get("FUZZ_TIMES", "0"))

SEED = int(os.environ.get("FUZZ_SEED", "1"))


def examples(usual: int) -> int:
    """How many, where the tests try so many."""
    return max(1, round(usual * (FACTOR or 1)))


def tried(usual: int) -> settings:
    """Hypothesis's settings for so many examples."""
    return settings(
        max_examples=examples(usual),
        derandomize=not FACTOR,
        database=None,
        deadline=None,  # calls have a bound of their own
        # Making a failure small takes many calls, each of which may have to be waited for.
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if FACTOR else [])],
        suppress_health_check=list(HealthCheck),
    )


def dice(name: str) -> random.Random:
    """A source of chance for what Hypothesis does not draw."""
    return random.Random(f"{name} {SEED}")
