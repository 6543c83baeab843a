"""What limits can be told in the configuration: of a provider, of a route, of each caller.

What they mean is ``limits``' business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    SecretStr,
)

from penstock_server.sections import Section, comma_separated

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"\s*([\d_]+)\s*/\s*(\d*\.?\d*)\s*([a-z]+)\s*")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in any time of so many seconds.

    Example::

        Rate.parse("100/10s")  # Rate(amount=100, seconds=10.0)
    """

    amount: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.amount}/{self.seconds:g}s"

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read "100/10s", "60/m", "5000/h", "1000000/d"; raises ValueError for anything else."""
        found = _RATE.fullmatch(text)
        if found is None or found[3] not in _UNITS:
            raise ValueError(f'{text!r} is not a rate: write it as "100/10s", "60/m" or "5000/h"')
        amount, seconds = int(found[1]), float(found[2] or 1) * _UNITS[found[3]]
        if amount < 1 or seconds <= 0:
            raise ValueError(f"{text!r}: a rate has to let something through")
        return cls(amount, seconds)


def _rates(value: object) -> object:
    value = comma_separated(value)
    if isinstance(value, list):
        return [Rate.parse(each) if isinstance(each, str) else each for each in value]
    return value


Rates = Annotated[
    list[Annotated[Rate, PlainSerializer(str)]], BeforeValidator(_rates), Field(max_length=8)
]


class CallLimits(Section):
    """How much may be asked of one provider or route, or by one caller. Default: no bound."""

    concurrency: PositiveInt | None = None
    """How many calls may run at a time."""
    queue: NonNegativeInt = 64
    """How many more may wait for their turn; the others are refused at once."""
    requests: Rates = Field(default_factory=list)
    """How many calls, in any time of that length: "100/10s", or several of these."""
    tokens: Rates = Field(default_factory=list)
    """How many tokens, of prompts and answers together, likewise."""
    reserve: PositiveInt = 1024
    """What an answer counts as until it is there, in tokens, where its request does not bound it
    (``sampling.max_output_tokens``)."""

    @property
    def any(self) -> bool:
        """Whether something is limited at all."""
        return bool(self.concurrency or self.requests or self.tokens)


class RedisSettings(Section):
    """A Redis in which several gateways count together. Default: each counts for itself."""

    url: SecretStr = SecretStr("")
    """"redis://host:6379/0", "rediss://user:password@host:6380/0" or "unix:///path"."""
    prefix: str = "penstock:"
    """What the names of its keys begin with."""
    timeout: PositiveFloat = 0.5
    """How long a call waits for it, in seconds."""
    when_lost: Literal["local", "refuse"] = "local"
    """While it does not answer: count here alone, so that each gateway lets the whole limit
    through, or refuse what is limited."""


LIMIT_SECTIONS = (CallLimits, RedisSettings)
