"""What Anthropic's Messages API answers, whole or as events → the contract's events.

A whole message is read block by block through the same methods as a stream. Reading JSON does not
belong here, see ``json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from penstock import v1

from penstock_server.providers.answer import Asked, SseAnswer
from penstock_server.providers.anthropic.json import (
    BlockJson,
    DeltaJson,
    EventJson,
    MessageJson,
    UsageJson,
    decode_block,
    decode_event,
    decode_message,
)
from penstock_server.providers.anthropic.messages import PROVIDER
from penstock_server.providers.assembler import Kind
from penstock_server.providers.body import Json
from penstock_server.providers.transport.sse import ServerSentEvent

_FINISH: Mapping[str, v1.FinishReason.ValueType] = {
    "": v1.FINISH_REASON_UNSPECIFIED,
    "end_turn": v1.FINISH_REASON_STOP,
    "stop_sequence": v1.FINISH_REASON_STOP,
    "max_tokens": v1.FINISH_REASON_MAX_OUTPUT_TOKENS,
    "tool_use": v1.FINISH_REASON_TOOL_CALLS,
    "pause_turn": v1.FINISH_REASON_PAUSE,
    "refusal": v1.FINISH_REASON_REFUSAL,
    "model_context_window_exceeded": v1.FINISH_REASON_CONTEXT_LENGTH,
}

_KINDS: Mapping[str, Kind] = {"text": "text", "thinking": "thinking", "tool_use": "tool_call"}


@dataclass(slots=True)
class _Block:
    """A block that is arriving."""

    kind: Kind | None
    """None for a block that is opaque to us."""
    heard: BlockJson
    raw: msgspec.Raw
    signature: str = ""
    citations: list[Any] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    """Thoughts that the caller does not want to see, but the API wants back."""
    partial: list[str] = field(default_factory=list)
    """The input of an opaque block."""
    has_input: bool = False


class AnthropicAnswer(SseAnswer):
    """One answer of the Messages API.

    ``answer_tool`` is the tool whose arguments are the answer, "" where there is none.
    """

    def __init__(self, asked: Asked, answer_tool: str = "") -> None:
        super().__init__(asked)
        self._answer_tool = answer_tool
        self._answered_by_tool = False
        self._blocks: dict[int, _Block] = {}
        self._told = UsageJson()

    def whole(self, body: bytes) -> None:
        """Take a whole message."""
        message = self._errors.decoded(decode_message, body)
        if message.type == "error":
            raise self._errors.failure(body)
        if message.content is None:
            raise self._errors.nonsense("sent an answer without any content")
        self._start(message)
        for index, block in enumerate(message.content):
            self._start_block(index, block)
            self._stop_block(index)
        self._stop(message)

    def _hear(self, event: ServerSentEvent) -> None:
        try:
            heard = decode_event(event.data)
        except (ValueError, RecursionError):
            heard = self._errors.decoded(decode_event, event.data)
        kind = heard.type
        if kind == "content_block_delta":
            if heard.delta is not None:
                self._hear_delta(heard.index, heard.delta)
        elif kind == "content_block_start":
            self._start_block(heard.index, heard.content_block)
        elif kind == "content_block_stop":
            self._stop_block(heard.index)
        elif kind == "message_start":
            self._start(heard.message or MessageJson())
        elif kind == "message_delta":
            self._hear_message_delta(heard)
        elif kind == "message_stop":
            self.ended = True
        elif kind == "error":
            raise self._errors.failure(event.data)
        # "ping", and what the API may add: its versioning policy asks to pass over unknown events.

    def _finish_reason(self, response: v1.GenerateResponse) -> v1.FinishReason.ValueType:
        if self._answered_by_tool and self.finish_reason == "tool_use":
            return v1.FINISH_REASON_STOP
        return _FINISH.get(self.finish_reason, v1.FINISH_REASON_OTHER)

    def _usage(self) -> v1.Usage | None:
        return None if self._told == UsageJson() else self._told.to_proto()

    def _start(self, message: MessageJson) -> None:
        self._begin(message.id, message.model)
        self._count(message.usage)

    def _stop(self, told: MessageJson | DeltaJson) -> None:
        if told.stop_reason:
            self.finish_reason = told.stop_reason
        if told.stop_sequence:
            self._begin(None).stop_sequence = told.stop_sequence
        for name, value in (("stop_details", told.stop_details), ("container", told.container)):
            if value is not None:
                self.about[name] = value

    def _hear_message_delta(self, heard: EventJson) -> None:
        self._stop(heard.delta or DeltaJson())
        self._count(heard.usage)

    def _count(self, usage: UsageJson | None) -> None:
        if usage is None:
            return
        self._told = self._told.updated(usage)
        if usage.service_tier:
            self.about["service_tier"] = usage.service_tier
        if usage.server_tool_use:
            self.about["server_tool_use"] = usage.server_tool_use

    def _start_block(self, index: int, data: msgspec.Raw) -> None:
        heard = self._errors.decoded(decode_block, bytes(data))
        if not self.begun:
            self._begin(None)
        kind = _KINDS.get(heard.type)
        if kind == "tool_call" and heard.name == self._answer_tool:
            kind = "text"
            self._answered_by_tool = True
        block = self._blocks[index] = _Block(kind, heard, data)
        if heard.type == "redacted_thinking":
            thinking = v1.Thinking(redacted=True)
            self._opaque(v1.Part(thinking=thinking, provider_data=_own(_compact(data))))
            del self._blocks[index]
        elif kind == "tool_call":
            self._start_call(index, heard.id, heard.name)
        elif kind == "text":
            self._open("text", index)
            self._say("text", heard.text or "", index)
            block.citations += heard.citations or ()
        elif kind == "thinking":
            self._open("thinking", index)
            self._think(index, block, heard.thinking or "")
            block.signature = heard.signature or ""

    def _hear_delta(self, index: int, delta: DeltaJson) -> None:
        block = self._blocks.get(index)
        if block is None:
            raise self._errors.nonsense(f"sent more of block {index}, which has not begun")
        if delta.text:
            self._say("text", delta.text, index)
        elif delta.partial_json:
            block.has_input = True
            if block.kind is None:
                block.partial.append(delta.partial_json)
            else:
                self._say(block.kind, delta.partial_json, index)
        elif delta.thinking:
            self._think(index, block, delta.thinking)
        elif delta.signature:
            block.signature += delta.signature
        elif delta.citation is not None:
            block.citations.append(delta.citation)

    def _think(self, index: int, block: _Block, thought: str) -> None:
        if self.show_thinking:
            self._say("thinking", thought, index)
        elif thought:
            block.hidden.append(thought)

    def _stop_block(self, index: int) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if block.kind is None:
            opaque: Json = msgspec.json.decode(block.raw)
            if block.partial:
                given = "".join(block.partial).encode()
                opaque["input"] = self._errors.decoded(msgspec.json.decode, given)
            self._opaque(v1.Part(provider_data=_own(msgspec.json.encode(opaque))))
            return
        if not block.has_input and bytes(block.heard.input) not in (b"", b"{}"):
            self._say(block.kind, bytes(block.heard.input).decode(), index)
        self._finish(block.kind, index, _to_keep(block))


def _to_keep(block: _Block) -> v1.ProviderData | None:
    """What the API wants to see again beside the part itself."""
    own: Json = {}
    if block.signature:
        own["signature"] = block.signature
    if block.hidden:
        own["thinking"] = "".join(block.hidden)
    if block.citations:
        own["citations"] = block.citations
    if block.heard.caller is not None:
        own["caller"] = block.heard.caller
    if block.heard.toolset_name is not None:
        own["toolset_name"] = block.heard.toolset_name
    return _own(msgspec.json.encode(own)) if own else None


def _own(data: bytes) -> v1.ProviderData:
    return v1.ProviderData(provider=PROVIDER, data=data)


def _compact(data: msgspec.Raw) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(data))
