"""What a route can be told in the configuration.

What it means is ``routes``' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from penstock_server.limit_settings import CallLimits
from penstock_server.sections import Section, comma_separated

Kind = Literal["unavailable", "rate_limited", "context_length", "content_refused", "unsupported"]
"""Kinds of failures; ``routes.REASONS`` says which those are."""

Strategy = Literal["ordered", "weighted", "least_busy", "affinity"]

DEFAULT_FALLBACKS: Sequence[Kind] = ("unavailable", "rate_limited")


class CircuitSettings(Section):
    """When a target that fails is left alone; see `circuit.CircuitPolicy`."""

    failures: PositiveInt = 5
    cooldown: PositiveFloat = 10.0
    max_cooldown: PositiveFloat = 300.0


class HedgeSettings(Section):
    """When a call is asked of a second target; see `hedging.HedgePolicy`."""

    after: PositiveFloat | None = None
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.after is None) == (self.quantile is None):
            raise ValueError("set either after (seconds) or quantile (such as 0.95)")
        return self


class TargetSettings(Section):
    """One of a route's models."""

    model: str
    """Its full name, "provider/model"."""
    weight: PositiveFloat = 1.0
    """Its share, where the strategy heeds that."""


def _targets(value: object) -> object:
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    if not isinstance(value, list):
        return value
    return [{"model": each} if isinstance(each, str) else each for each in value]


class RouteSettings(Section):
    """A name that stands for several models."""

    targets: Annotated[list[TargetSettings], BeforeValidator(_targets)] = Field(min_length=1)
    """Full names of models, or tables of model and weight."""
    strategy: Strategy = "ordered"
    """"ordered": the first that can; "weighted": by chance, in proportion to their weights;
    "least_busy": who has the fewest calls under way, for its weight; "affinity": the same one for
    prompts that begin alike, unless it is much busier than the others."""
    fallback_on: Annotated[list[Kind], BeforeValidator(comma_separated)] = Field(
        default_factory=lambda: list(DEFAULT_FALLBACKS)
    )
    """After which kinds of failure the next one is tried."""
    circuit: CircuitSettings = CircuitSettings()
    limits: CallLimits = CallLimits()
    """How much all callers together may ask of it."""
    hedge: HedgeSettings | None = None
    """Whether calls that take long are asked of a second target, too. Default: never."""


ROUTE_SECTIONS = (RouteSettings, TargetSettings, CircuitSettings, HedgeSettings)
