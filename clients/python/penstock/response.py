"""What a model answered, in the words that AbstractCore's users know.

`GenerateResponse` here is a convenience above the contract's own message, which it carries along
as ``raw_response``: nothing that the provider said is lost. Asking is ``llm``'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock import v1
from penstock.messages import text_of, thinking_of, tool_calls_of

FINISH_REASONS: Mapping[v1.FinishReason.ValueType, str] = {
    v1.FINISH_REASON_STOP: "stop",
    v1.FINISH_REASON_MAX_OUTPUT_TOKENS: "length",
    v1.FINISH_REASON_CONTEXT_LENGTH: "length",
    v1.FINISH_REASON_TOOL_CALLS: "tool_calls",
    v1.FINISH_REASON_CONTENT_FILTER: "content_filter",
    v1.FINISH_REASON_REFUSAL: "refusal",
    v1.FINISH_REASON_PAUSE: "pause",
    v1.FINISH_REASON_OTHER: "other",
}
"""The contract's reasons in OpenAI's words, as far as those go."""


@dataclass
class GenerateResponse:
    """An answer, or a piece of one.

    Attributes:
        content: the text; of a streamed chunk, what is new. "" where there is none.
        raw_response: the contract's ``v1.GenerateResponse``; of a chunk, its event.
        model: the model that answered, without its provider.
        finish_reason: "stop", "length", "tool_calls", "content_filter", "refusal", "pause" or
            "other"; None in all chunks but the last.
        usage: tokens: input_tokens, output_tokens, total_tokens, and prompt_tokens and
            completion_tokens, which are the first two again; cached_input_tokens,
            cache_write_tokens and thinking_tokens are parts of those. None where not known.
        tool_calls: what the model wants called: ``{"name", "arguments" (a dict), "call_id"}``;
            None where nothing is. Arguments that are no JSON object, which some models write,
            stay the text that they are.
        metadata: provider, response_id, provider_finish_reason, stop_sequence, reasoning (the
            thoughts), refusal, _timing (milliseconds: ttft_ms, total_ms, queued_ms): what there
            is of it.
        gen_time: milliseconds from asking to the answer's end, seen from here.

    Example::

        response = llm.generate("Name a river.")
        print(response.content, response.output_tokens)
    """

    content: str | None = None
    raw_response: Any = field(default=None, repr=False)
    model: str | None = None
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    gen_time: float | None = None

    @property
    def input_tokens(self) -> int | None:
        """Tokens of the prompt; None where not known."""
        return (self.usage or {}).get("input_tokens")

    @property
    def output_tokens(self) -> int | None:
        """Tokens of the answer, thinking included; None where not known."""
        return (self.usage or {}).get("output_tokens")

    @property
    def total_tokens(self) -> int | None:
        """Both together; None where not known."""
        return (self.usage or {}).get("total_tokens")

    @property
    def reasoning(self) -> str | None:
        """What the model thought, as far as the provider shows it; of a chunk, what is new."""
        return self.metadata.get("reasoning")

    @property
    def output_truncated(self) -> bool:
        """Whether the answer ended because it may not, or cannot, be longer."""
        return self.finish_reason == "length"

    def has_tool_calls(self) -> bool:
        """Whether the model wants tools called."""
        return bool(self.tool_calls)

    def get_tools_executed(self) -> list[str]:
        """Names of the tools that the model called."""
        return [call["name"] for call in self.tool_calls or ()]

    def get_summary(self) -> str:
        """One line: model, tokens, time, tools.

        Example::

            >>> response.get_summary()
            'Model: tiny | Tokens: 21 | Time: 130.4ms'
        """
        parts = [f"Model: {self.model}"] if self.model else []
        if self.usage:
            parts.append(f"Tokens: {self.total_tokens}")
        if self.gen_time is not None:
            parts.append(f"Time: {self.gen_time:.1f}ms")
        if self.tool_calls:
            parts.append(f"Tools: {len(self.tool_calls)} called")
        return " | ".join(parts)


def of_answer(answer: v1.GenerateResponse, gen_time: float | None = None) -> GenerateResponse:
    """A whole answer in these words; ``gen_time`` is in milliseconds."""
    provider, _, model = answer.model.partition("/")
    return GenerateResponse(
        content=text_of(answer),
        raw_response=answer,
        model=model or provider,
        finish_reason=FINISH_REASONS.get(answer.finish_reason),
        usage=_usage(answer.usage) if answer.HasField("usage") else None,
        tool_calls=[as_dict(call) for call in tool_calls_of(answer)] or None,
        metadata=_metadata(answer),
        gen_time=gen_time,
    )


def as_dict(call: v1.ToolCall) -> dict[str, Any]:
    """A tool call in AbstractCore's shape; see `GenerateResponse.tool_calls`."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = call.arguments
    if not isinstance(arguments, dict):
        arguments = call.arguments
    return {"name": call.name, "arguments": arguments, "call_id": call.id}


def _usage(usage: v1.Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "thinking_tokens": usage.thinking_tokens,
    }


def _metadata(answer: v1.GenerateResponse) -> dict[str, Any]:
    provider, slash, _ = answer.model.partition("/")
    timings = answer.timings
    timing = {
        name: duration.ToMilliseconds()
        for name, field_name in _TIMINGS.items()
        if timings.HasField(field_name) and (duration := getattr(timings, field_name))
    }
    found = {
        "provider": provider if slash else "",
        "response_id": answer.id,
        "provider_finish_reason": answer.provider_finish_reason,
        "stop_sequence": answer.stop_sequence,
        "reasoning": thinking_of(answer),
        "refusal": "".join(part.refusal for part in answer.message.parts),
        "_timing": {"source": "server", **timing} if timing else None,
    }
    return {name: value for name, value in found.items() if value}


_TIMINGS: Mapping[str, Any] = {
    "ttft_ms": "time_to_first_token",
    "total_ms": "total",
    "queued_ms": "queued",
}
