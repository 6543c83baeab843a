"""Thoughts of local models: how they are marked, what a request may ask of them, and their budget.

Where a thought ends in a text is ``splitter``'s to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from penstock import v1

from penstock_server.errors import Failure

if TYPE_CHECKING:
    from penstock_server.local.constraint import Constraint, Row


class Tags(NamedTuple):
    """What stands before and behind a thought."""

    open: str
    close: str


TAGS: Sequence[Tags] = (
    Tags("<think>", "</think>"),  # DeepSeek-R1, Qwen 3, SmolLM 3, GLM, MiniMax, …
    Tags("[THINK]", "[/THINK]"),  # Magistral
    Tags("<seed:think>", "</seed:think>"),
    Tags("<thought>", "</thought>"),
)

_EFFORT: Mapping[v1.ThinkingOptions.Effort.ValueType, str] = {
    v1.ThinkingOptions.EFFORT_MINIMAL: "low",
    v1.ThinkingOptions.EFFORT_LOW: "low",
    v1.ThinkingOptions.EFFORT_MEDIUM: "medium",
    v1.ThinkingOptions.EFFORT_HIGH: "high",
    v1.ThinkingOptions.EFFORT_MAX: "high",
}
"""What chat templates that know ``reasoning_effort`` call them."""

# What chat templates call the switch. Those that know neither ignore both.
_SWITCHES = ("enable_thinking", "thinking")


def detect(template: str, is_token: Callable[[str], bool]) -> Tags | None:
    """How a model marks its thoughts; None where it was not taught to think.

    Its chat template knows (mostly since it leaves out earlier thoughts), or its vocabulary has
    tokens for it.
    """
    for tags in TAGS:
        if tags.close in template or (is_token(tags.open) and is_token(tags.close)):
            return tags
    return None


def variables(options: v1.ThinkingOptions, template: str) -> dict[str, object]:
    """What a chat template is told of the amount of thinking; nothing where nothing was asked."""
    amount = options.WhichOneof("amount")
    if amount is None or (amount == "effort" and not options.effort):
        return {}
    wanted = not forbids(options)
    told: dict[str, object] = dict.fromkeys(_SWITCHES, wanted)
    if options.effort in _EFFORT and "reasoning_effort" in template:
        told["reasoning_effort"] = _EFFORT[options.effort]
    return told


def forbids(options: v1.ThinkingOptions) -> bool:
    """Whether there is to be no thinking."""
    return options.effort == v1.ThinkingOptions.EFFORT_NONE


def check(options: v1.ThinkingOptions, tags: Tags | None) -> None:
    """Refuse to think with a model that does not: UNSUPPORTED_FEATURE."""
    asked = options.WhichOneof("amount") is not None and (options.effort or options.budget_tokens)
    if asked and not forbids(options) and tags is None:
        raise Failure.unsupported(
            "thinking",
            "this model does not think: its chat template knows nothing of it; use EFFORT_NONE, "
            "leave thinking unset, or ask a model that does",
        )


class Meter(Protocol):
    """Tells how much has been thought so far."""

    thinking_tokens: int

    @property
    def thinking(self) -> bool:
        """Whether what comes now is a thought."""
        ...


@dataclass(slots=True)
class Budget:
    """Ends the thoughts of one answer once they have ``tokens`` tokens.

    The ``end`` tokens are then forced, one after the other. Where there is ``then``, it holds
    the answer to its form before and after. A `Constraint`.
    """

    meter: Meter
    tokens: int
    end: Sequence[int]
    then: Constraint | None = None
    _forced: int = 0

    @property
    def finished(self) -> bool:
        """See `Constraint.finished`."""
        return self.then is not None and self.then.finished

    def fill(self, row: Row) -> bool:
        """See `Constraint.fill`."""
        if self._forced or self._is_used_up():
            token = self.end[self._forced]
            row[:] = 0
            row.view("uint32")[token // 32] = 1 << token % 32
            return True
        return self.then is not None and self.then.fill(row)

    def accept(self, token: int) -> None:
        """See `Constraint.accept`."""
        # The meter has not counted this token yet, and so says what it said when it was drawn.
        if self._forced or self._is_used_up():
            self._forced = (self._forced + 1) % len(self.end)
        if self.then is not None:
            self.then.accept(token)

    def _is_used_up(self) -> bool:
        return self.meter.thinking and self.meter.thinking_tokens >= self.tokens
