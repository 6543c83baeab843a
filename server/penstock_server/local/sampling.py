"""What an answer's tokens are drawn by: the caller's wishes over the model's own, and its numbers.

The rules are the same for every engine and stand here; the arithmetic over a vocabulary is each
sidecar's own, with its library's arrays.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock import v1

# Colder than this is the likeliest token in all but name, and dividing by it leaves no finite
# numbers.
_COLDEST = 1e-4


@dataclass(frozen=True, slots=True)
class Defaults:
    """The model's own sampling, for what a caller leaves unset. Neutral values change nothing."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    # What the contract has no field for: the model's own value always counts.
    top_h: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0

    @classmethod
    def of(cls, config: Callable[[str], Any]) -> Defaults:
        """The defaults in a generation_config; ``config`` looks up a name, None where it is not.

        Only what stands in it counts: where it is silent, transformers itself would draw from
        the 50 likeliest tokens, which nobody asked for. Without ``do_sample`` the likeliest
        token is taken, as ``generate()`` does.
        """
        values = {
            name: value for name in cls.__dataclass_fields__ if (value := config(name)) is not None
        }
        temperature = float(values.pop("temperature", 1.0)) if config("do_sample") else 0.0
        return cls(**{**values, "temperature": temperature})


class SamplingParams:
    """How one answer's tokens are drawn; belongs to it alone.

    In this order, where a value is not neutral: raw scores are changed by ``repetition_penalty``
    (tokens of prompt and answer), ``presence`` and ``frequency`` (tokens of the answer only) and
    ``bias``; what the job's constraint forbids is out; scores are divided by ``temperature``;
    then ``top_k``, ``top_p`` of what that left, and ``min_p`` narrow the choice. ``greedy``: the
    likeliest token, and nothing of the last two steps.

    A token is drawn by inverse CDF from one number of the answer's own, `number`: with a
    seed, the same numbers in the same places, whoever else is in the batch and whatever the
    device.

    Example::

        params = SamplingParams(job.sampling, defaults)
        if not params.greedy:
            token = first(cumulated > params.number() * cumulated[-1])
    """

    __slots__ = (
        "_numbers",
        "bias",
        "defaults",
        "frequency",
        "greedy",
        "min_p",
        "presence",
        "repetition_penalty",
        "temperature",
        "top_k",
        "top_p",
    )

    def __init__(self, sampling: v1.Sampling, defaults: Defaults) -> None:
        said = {field.name: value for field, value in sampling.ListFields()}

        def value(name: str) -> float:
            return float(said.get(name, getattr(defaults, name)))

        self.defaults = defaults
        self.temperature = value("temperature")
        self.greedy = self.temperature < _COLDEST
        self.top_p = value("top_p")
        self.top_k = int(value("top_k"))
        self.min_p = value("min_p")
        self.repetition_penalty = value("repetition_penalty")
        self.presence = sampling.presence_penalty
        self.frequency = sampling.frequency_penalty
        self.bias = dict(sampling.logit_bias)
        self._numbers = random.Random(said.get("seed"))

    @property
    def changes_scores(self) -> bool:
        """Whether penalties or biases change the model's scores."""
        return bool(self.repetition_penalty != 1 or self.presence or self.frequency or self.bias)

    def number(self) -> float:
        """The next of the answer's own random numbers, at least 0 and below 1.

        One for each token drawn; below 1 also as a share of what has been summed up.
        """
        return min(self._numbers.random(), 1 - 2**-52)
