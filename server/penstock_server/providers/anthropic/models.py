"""What is known of Anthropic's models, for where the API does not say it.

Source: platform.claude.com, "Models overview", "Structured outputs", "Effort" and "Adaptive
thinking". The newest models are the rule, and older ones its exceptions, so that a model that is
newer than this table is taken for a new one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from penstock import v1


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a family of models can do."""

    max_output_tokens: int = 64_000
    context_length: int = 200_000
    structured: bool = True
    """Whether it takes ``output_config.format``; others are made to call a tool."""
    adaptive: bool = True
    """Whether it takes an effort and thinks as it sees fit; others take a budget of tokens."""
    thinks: bool = True
    documents: bool = True

    @property
    def capabilities(self) -> list[v1.Capability.ValueType]:
        """As the contract names them."""
        found = [
            v1.CAPABILITY_GENERATE,
            v1.CAPABILITY_STREAM,
            v1.CAPABILITY_TOOLS,
            v1.CAPABILITY_IMAGE_INPUT,
            v1.CAPABILITY_JSON_OBJECT,
            v1.CAPABILITY_JSON_SCHEMA,
        ]
        if self.documents:
            found.append(v1.CAPABILITY_DOCUMENT_INPUT)
        if self.thinks:
            found.append(v1.CAPABILITY_THINKING)
        return found


# Part of a model's name → its traits; the first that fits.
_OLDER: tuple[tuple[re.Pattern[str], Traits], ...] = (
    (
        re.compile(r"claude-3-(opus|sonnet|haiku)|claude-[12]|claude-instant"),
        Traits(
            max_output_tokens=4_096, structured=False, adaptive=False, thinks=False, documents=False
        ),
    ),
    (
        re.compile(r"claude-3-5"),
        Traits(max_output_tokens=8_192, structured=False, adaptive=False, thinks=False),
    ),
    (re.compile(r"claude-3-7"), Traits(structured=False, adaptive=False)),
    (re.compile(r"claude-opus-4-1\b"), Traits(max_output_tokens=32_000, adaptive=False)),
    (
        re.compile(r"claude-opus-4(-0|-20\d{6}|@|$)"),
        Traits(max_output_tokens=32_000, structured=False, adaptive=False),
    ),
    (re.compile(r"claude-sonnet-4(-0|-20\d{6}|@|$)"), Traits(structured=False, adaptive=False)),
    (re.compile(r"claude-(sonnet|haiku|opus)-4-5"), Traits(adaptive=False)),
)

_NEWEST = Traits()


def traits(model: str) -> Traits:
    """What a model can do, by its name: also those of the clouds.

    Example::

        traits("eu.anthropic.claude-3-5-sonnet-20241022-v2:0").max_output_tokens == 8192
    """
    return next((row for pattern, row in _OLDER if pattern.search(model)), _NEWEST)
