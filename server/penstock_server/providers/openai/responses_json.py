"""The JSON that OpenAI's Responses API answers: only the fields that are read.

Formats: developers.openai.com, API reference, "The response object" and "Streaming events", and the
types of OpenAI's SDK (``openai/types/responses``). Other servers that speak it leave out a good
deal, so nearly everything may be missing.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from penstock import v1

from penstock_server.providers.openai.chat_json import LogprobJson

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class InputDetailsJson(msgspec.Struct, gc=False):
    """usage.input_tokens_details."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class OutputDetailsJson(msgspec.Struct, gc=False):
    """usage.output_tokens_details."""

    reasoning_tokens: Count | None = None


class UsageJson(msgspec.Struct, gc=False):
    """usage."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: InputDetailsJson | None = None
    output_tokens_details: OutputDetailsJson | None = None

    def to_proto(self) -> v1.Usage:
        """As the contract counts, which is the same."""
        inputs = self.input_tokens_details or InputDetailsJson()
        outputs = self.output_tokens_details or OutputDetailsJson()
        return v1.Usage(
            input_tokens=self.input_tokens or 0,
            output_tokens=self.output_tokens or 0,
            cached_input_tokens=inputs.cached_tokens or 0,
            cache_write_tokens=inputs.cache_write_tokens or 0,
            thinking_tokens=outputs.reasoning_tokens or 0,
        )


class TextJson(msgspec.Struct, gc=False):
    """A content part of a message, a summary part or a part of reasoning."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[LogprobJson] | None = None


class ItemJson(msgspec.Struct, gc=False):
    """An output item; the fields of the kinds that are understood."""

    type: str
    content: list[TextJson] | None = None
    summary: list[TextJson] | None = None
    phase: str | None = None
    call_id: str | None = None
    id: str | None = None
    name: str | None = None
    arguments: str | None = None
    namespace: str | None = None
    caller: Any = None


class IncompleteJson(msgspec.Struct, gc=False):
    """incomplete_details."""

    reason: str | None = None


class ResponseJson(msgspec.Struct, gc=False):
    """A response, whole or as events tell of it; or an error in its place."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[msgspec.Raw] | None = None
    usage: UsageJson | None = None
    incomplete_details: IncompleteJson | None = None
    service_tier: str | None = None
    error: Any = None


class EventJson(msgspec.Struct, gc=False):
    """One event of a stream."""

    type: str
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    delta: Any = None
    logprobs: list[LogprobJson] | None = None
    item: msgspec.Raw = msgspec.Raw()
    response: ResponseJson | None = None


# Each raises ValueError or RecursionError for anything else.
decode_event = msgspec.json.Decoder(EventJson).decode
decode_response = msgspec.json.Decoder(ResponseJson).decode
decode_item = msgspec.json.Decoder(ItemJson).decode
