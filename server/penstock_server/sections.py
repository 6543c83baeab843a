"""What all tables of the configuration have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def comma_separated(value: object) -> object:
    """What the environment and ``--set`` have as text: "a, b"."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Strings = Annotated[list[str], BeforeValidator(comma_separated)]
