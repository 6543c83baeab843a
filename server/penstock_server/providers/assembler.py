"""Vendors' deltas in, the contract's events out: the only place where parts are put together.

A provider says what it heard, in the order it heard it; the assembler opens and closes parts,
and in the end knows the whole answer. So a stream's ``completed`` is by construction what its
deltas add up to. It knows no vendor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from penstock import v1

Kind = Literal["text", "thinking", "refusal", "tool_call"]

_START: dict[Kind, Callable[[], v1.Part]] = {
    "text": lambda: v1.Part(text=""),
    "thinking": lambda: v1.Part(thinking=v1.Thinking()),
    "refusal": lambda: v1.Part(refusal=""),
    "tool_call": lambda: v1.Part(tool_call=v1.ToolCall()),
}

_DELTA: dict[Kind, Callable[[int, str], v1.PartDelta]] = {
    "text": lambda index, more: v1.PartDelta(index=index, text=more),
    "thinking": lambda index, more: v1.PartDelta(index=index, thinking=more),
    "refusal": lambda index, more: v1.PartDelta(index=index, refusal=more),
    "tool_call": lambda index, more: v1.PartDelta(index=index, tool_call_arguments=more),
}


def _fill(part: v1.Part, kind: Kind, text: str) -> None:
    """Put the concatenated deltas where they belong."""
    if kind == "thinking":
        part.thinking.text = text
    elif kind == "tool_call":
        part.tool_call.arguments = text
    else:
        setattr(part, kind, text)


@dataclass(slots=True)
class _OpenPart:
    index: int
    kind: Kind
    part: v1.Part
    pieces: list[str] = field(default_factory=list)


class Assembler:
    """Puts one answer together.

    ``answer_id`` and ``model`` (the full name) are those of the answer; ``arrived`` is when the
    request came, on `time.monotonic`'s clock, for the timings. Methods return the events to
    send on, in order.

    Example::

        assembler = Assembler("r1", "local/tiny", call.arrived)
        yield assembler.started()
        for event in assembler.add("text", "Hello"): yield event
        for event in assembler.complete(v1.FINISH_REASON_STOP): yield event
    """

    def __init__(self, answer_id: str, model: str, arrived: float) -> None:
        self._arrived = arrived
        self._first: float | None = None
        self._open: dict[tuple[Kind, Hashable], _OpenPart] = {}
        self.response = v1.GenerateResponse(
            id=answer_id, model=model, message=v1.Message(role=v1.ROLE_ASSISTANT)
        )

    def started(self) -> v1.StreamGenerateResponse:
        """The first event."""
        started = v1.StreamStarted(id=self.response.id, model=self.response.model)
        return v1.StreamGenerateResponse(started=started)

    def add(
        self,
        kind: Kind,
        more: str,
        *,
        key: Hashable = None,
        logprobs: Iterable[v1.TokenLogprob] = (),
    ) -> list[v1.StreamGenerateResponse]:
        """More of a part.

        Parts with the same kind and ``key`` are the same part for as long as it is open.
        Without a key, parts follow one another: another kind ends the part before it.
        """
        self._touch()
        events: list[v1.StreamGenerateResponse] = []
        opened = self._open.get((kind, key))
        if opened is None:
            if key is None:
                events += self.finish_parts()
            opened = self._start(kind, key, _START[kind](), events)
        delta = _DELTA[kind](opened.index, more)
        for logprob in logprobs:
            delta.logprobs.append(logprob)
            self.response.logprobs.append(logprob)
        if more or delta.logprobs:
            opened.pieces.append(more)
            events.append(v1.StreamGenerateResponse(part_delta=delta))
        return events

    def start_tool_call(
        self, key: Hashable, *, call_id: str, name: str
    ) -> list[v1.StreamGenerateResponse]:
        """A tool call begins; its arguments follow by ``add("tool_call", …, key=key)``."""
        self._touch()
        events: list[v1.StreamGenerateResponse] = []
        part = v1.Part(tool_call=v1.ToolCall(id=call_id, name=name))
        self._start("tool_call", key, part, events)
        return events

    def finish_part(
        self, kind: Kind, key: Hashable = None, *, provider_data: v1.ProviderData | None = None
    ) -> list[v1.StreamGenerateResponse]:
        """A part is whole. Nothing happens where it is not open."""
        opened = self._open.pop((kind, key), None)
        if opened is None:
            return []
        _fill(opened.part, opened.kind, "".join(opened.pieces))
        if provider_data is not None:
            opened.part.provider_data.CopyFrom(provider_data)
        self.response.message.parts[opened.index].CopyFrom(opened.part)
        finished = v1.PartFinished(index=opened.index, part=opened.part)
        return [v1.StreamGenerateResponse(part_finished=finished)]

    def whole_part(self, part: v1.Part) -> list[v1.StreamGenerateResponse]:
        """A part that arrived in one piece: an opaque one, or a redacted thought."""
        self._touch()
        index = len(self.response.message.parts)
        self.response.message.parts.append(part)
        return [
            v1.StreamGenerateResponse(part_started=v1.PartStarted(index=index, part=part)),
            v1.StreamGenerateResponse(part_finished=v1.PartFinished(index=index, part=part)),
        ]

    def finish_parts(self) -> list[v1.StreamGenerateResponse]:
        """All open parts are whole."""
        return [event for kind, key in list(self._open) for event in self.finish_part(kind, key)]

    def complete(
        self, finish_reason: v1.FinishReason.ValueType, usage: v1.Usage | None = None
    ) -> list[v1.StreamGenerateResponse]:
        """The answer is whole. What else is known of it is set on `response` before."""
        events = self.finish_parts()
        self.response.finish_reason = finish_reason
        if usage is not None:
            self.response.usage.CopyFrom(usage)
        now = time.monotonic()
        first = now if self._first is None else self._first
        timings = self.response.timings
        timings.time_to_first_token.FromNanoseconds(int((first - self._arrived) * 1e9))
        timings.total.FromNanoseconds(int((now - self._arrived) * 1e9))
        events.append(v1.StreamGenerateResponse(completed=self.response))
        return events

    def _start(
        self, kind: Kind, key: Hashable, part: v1.Part, events: list[v1.StreamGenerateResponse]
    ) -> _OpenPart:
        index = len(self.response.message.parts)
        self.response.message.parts.append(part)  # holds the place; filled when it is whole
        opened = self._open[(kind, key)] = _OpenPart(index, kind, part)
        started = v1.PartStarted(index=index, part=part)
        events.append(v1.StreamGenerateResponse(part_started=started))
        return opened

    def _touch(self) -> None:
        if self._first is None:
            self._first = time.monotonic()
