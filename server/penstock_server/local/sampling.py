"""What an answer's tokens are drawn by: the caller's wishes over the model's own, and its noise.

The rules are the same for every engine and stand here; the arithmetic over a vocabulary is each
sidecar's own, with its library's arrays.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from penstock import v1

# Colder than this is the likeliest token in all but name, and dividing by it leaves no finite
# numbers.
_COLDEST = 1e-4

# A repetition penalty below this wants repeated tokens only, whatever it is; dividing by it, too.
_LEAST_PENALTY = 1e-4


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


SALT = 0x9E3779B1
"""What a token's id is multiplied by before the first half of the key is added."""

ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1))
"""A 32-bit mixer, once for each half of the key: shift right and xor, then multiply (the constants
are those of Chris Wellons' ``lowbias32``). Before the second time, the key's other half is added.
All modulo 2**32. The lower 31 bits of what comes of it, plus a half, divided by 2**31, are
``1 - u``: in that way single precision knows best what matters most, ``u`` near 1."""


class SamplingParams:
    """How one answer's tokens are drawn; belongs to it alone.

    In this order, where a value is not neutral: raw scores are changed by ``repetition_penalty``
    (tokens of prompt and answer), ``presence`` and ``frequency`` (tokens of the answer only) and
    ``bias``; what the job's constraint forbids is out; scores are divided by ``temperature``;
    then ``top_k``, ``top_p`` of what that left, and ``min_p`` narrow the choice. ``greedy``: the
    likeliest token, and nothing of the last two steps.

    A token is drawn by the Gumbel-max trick: the highest score wins, after noise has been added
    to each, ``-log(-log(u))`` with ``u`` uniform, which draws each token as often as the softmax
    says (Maddison, Tarlow, Minka: "A* Sampling", 2014). The noise of a token hangs on the
    answer's `key` for the place and on the token's id, by `SALT` and `ROUNDS`, and on nothing
    else: not on who else is in the batch, nor on the device, nor on what came before.

    That is also why sums may round as they like. What is drawn changes only where the two highest
    are closer to each other than the rounding error; drawn by cumulated probabilities, it would
    change wherever a number falls that close to any of the borders between all tokens.

    Example::

        params = SamplingParams(job.sampling, defaults)
        if not params.greedy:
            token = argmax(scores / params.temperature + noise(params.key(job.written), ids))
    """

    __slots__ = (
        "_seed",
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
        self.repetition_penalty = max(value("repetition_penalty"), _LEAST_PENALTY)
        self.presence = sampling.presence_penalty
        self.frequency = sampling.frequency_penalty
        self.bias = dict(sampling.logit_bias)
        seed = said.get("seed")
        self._seed = random.SystemRandom().getrandbits(64) if seed is None else seed

    @property
    def changes_scores(self) -> bool:
        """Whether penalties or biases change the model's scores."""
        return bool(self.repetition_penalty != 1 or self.presence or self.frequency or self.bias)

    def key(self, place: int) -> tuple[int, int]:
        """Two numbers of 32 bits, of which the noise for the answer's token at ``place`` is made.

        Without a seed they are the answer's own all the same.
        """
        digest = blake2b(f"{self._seed} {place}".encode(), digest_size=8).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
