"""The JSON that the Messages API answers: only the fields that are read.

Formats: platform.claude.com, API reference, "Messages" and "Streaming messages", and the types of
Anthropic's SDK (``anthropic/types/raw_*_event.py``, ``usage.py``, ``model_info.py``).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from penstock import v1

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class OutputDetailsJson(msgspec.Struct, gc=False):
    """usage.output_tokens_details."""

    thinking_tokens: Count | None = None


class UsageJson(msgspec.Struct, gc=False):
    """usage: of a message, and so far in message_start and message_delta."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens_details: OutputDetailsJson | None = None
    server_tool_use: dict[str, Any] | None = None
    service_tier: str | None = None

    def updated(self, later: UsageJson) -> UsageJson:
        """These figures, and the later ones where they are told: they are totals, not additions."""
        told = {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(later, name)) is not None
        }
        return msgspec.structs.replace(self, **told)

    def to_proto(self) -> v1.Usage:
        """As the contract counts: Anthropic's input_tokens leave out what the cache holds."""
        read = self.cache_read_input_tokens or 0
        written = self.cache_creation_input_tokens or 0
        details = self.output_tokens_details or OutputDetailsJson()
        return v1.Usage(
            input_tokens=(self.input_tokens or 0) + read + written,
            output_tokens=self.output_tokens or 0,
            cached_input_tokens=read,
            cache_write_tokens=written,
            thinking_tokens=details.thinking_tokens or 0,
        )


class BlockJson(msgspec.Struct, gc=False):
    """A content block; the fields of the kinds that are understood."""

    type: str
    text: str | None = None
    citations: list[Any] | None = None
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    caller: Any = None
    toolset_name: str | None = None


class DeltaJson(msgspec.Struct, gc=False):
    """content_block_delta.delta and message_delta.delta."""

    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: Any = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None
    container: Any = None


class MessageJson(msgspec.Struct, gc=False):
    """A message, whole or as message_start has it; or an error in its place."""

    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: list[msgspec.Raw] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None
    container: Any = None
    usage: UsageJson | None = None


class EventJson(msgspec.Struct, gc=False):
    """One event of a stream."""

    type: str
    index: int = 0
    delta: DeltaJson | None = None
    content_block: msgspec.Raw = msgspec.Raw()
    message: MessageJson | None = None
    usage: UsageJson | None = None


class SupportJson(msgspec.Struct, frozen=True):
    """capabilities.*."""

    supported: bool = False


class CapabilitiesJson(msgspec.Struct):
    """data[].capabilities of a list of models."""

    image_input: SupportJson = SupportJson()
    pdf_input: SupportJson = SupportJson()
    structured_outputs: SupportJson = SupportJson()
    thinking: SupportJson = SupportJson()


class ModelJson(msgspec.Struct):
    """data[] of a list of models, and one model."""

    id: str
    display_name: str | None = None
    created_at: str | None = None
    max_input_tokens: Count | None = None
    max_tokens: Count | None = None
    capabilities: CapabilitiesJson | None = None


class ModelsJson(msgspec.Struct):
    """A list of models."""

    data: list[ModelJson]
    has_more: bool = False
    last_id: str | None = None


# Each raises ValueError or RecursionError for anything else.
decode_event = msgspec.json.Decoder(EventJson).decode
decode_message = msgspec.json.Decoder(MessageJson).decode
decode_block = msgspec.json.Decoder(BlockJson).decode
decode_model = msgspec.json.Decoder(ModelJson).decode
decode_models = msgspec.json.Decoder(ModelsJson).decode
