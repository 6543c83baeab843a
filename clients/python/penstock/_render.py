"""How the contract's messages are shown: as lines for people, as JSON for programs. Pure.

Printing, and deciding what to show, belongs to ``cli``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.message import Message

from penstock import v1

MODEL_COLUMNS = ("NAME", "STATE", "CONTEXT", "CAPABILITIES")


def as_json(message: Message, indent: int | None = 2) -> str:
    """A message as JSON, with the names that grpcurl prints; one line where indent is None."""
    return MessageToJson(message, indent=indent, ensure_ascii=False)


def said(message: v1.Message) -> str:
    """What the model says, refusals included; thoughts and tool calls are for programs."""
    return "".join(part.text or part.refusal for part in message.parts)


def vector(embedding: v1.Embedding) -> str:
    """A vector as one line of JSON, no digit longer than a float32 holds."""
    return json.dumps(MessageToDict(embedding).get("values", []))


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows in aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def model_row(model: v1.Model) -> tuple[str, ...]:
    """A model's cells under `MODEL_COLUMNS`."""
    context = f"{model.context_length:,}" if model.context_length else "-"
    return model.name, _state(model), context, _capabilities(model) or "-"


def model_facts(model: v1.Model) -> list[tuple[str, str]]:
    """What is known about a model, as rows of name and value."""
    facts = {
        "name": model.name,
        "title": model.display_name,
        "state": f"{_state(model)} {model.state_message}".strip(),
        "context": f"{model.context_length:,} tokens" if model.context_length else "",
        "answer": f"{model.max_output_tokens:,} tokens" if model.max_output_tokens else "",
        "can": _capabilities(model),
        "runs on": f"{model.engine.device} {model.engine.dtype}".strip(),
    }
    return [fact for fact in facts.items() if fact[1]]


def failure_line(failure: v1.ProviderFailure) -> str:
    """Why a provider could not list its models."""
    reason = _word(v1.ErrorReason, failure.reason, "ERROR_REASON_").upper()
    return f"{failure.provider}: {failure.message} ({reason})"


def summary(response: v1.GenerateResponse) -> str:
    """What an answer cost, and how long it took."""
    usage, timings = response.usage, response.timings
    total = timings.total.ToTimedelta().total_seconds()
    first = timings.time_to_first_token.ToTimedelta().total_seconds()
    rate = f", {usage.output_tokens / total:.1f} tokens/s" if total else ""
    finish = _word(v1.FinishReason, response.finish_reason, "FINISH_REASON_")
    return (
        f"{response.model}: {usage.input_tokens} tokens in, {usage.output_tokens} out, "
        f"first after {first:.3f} s, all after {total:.3f} s{rate}; {finish}"
    )


def _state(model: v1.Model) -> str:
    state = _word(v1.ModelState, model.state, "MODEL_STATE_")
    return f"{state} {model.load_progress:.0%}" if state == "loading" else state


def _capabilities(model: v1.Model) -> str:
    return ",".join(_word(v1.Capability, known, "CAPABILITY_") for known in model.capabilities)


def _word(enum: Any, number: int, prefix: str) -> str:
    """An enum's value in words; a newer server's, which has none here, as its number."""
    try:
        return str(enum.Name(number)).removeprefix(prefix).lower()
    except ValueError:
        return str(number)
