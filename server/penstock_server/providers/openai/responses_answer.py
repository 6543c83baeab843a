"""What OpenAI's Responses API answers, whole or as events → the contract's events.

Deltas are passed on as they come; when an item is done, whatever its deltas have not told is told
too. A whole answer is read as items that are done, so both ways give the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from penstock import v1

from penstock_server.providers.answer import Asked, EventList, SseAnswer
from penstock_server.providers.assembler import Kind
from penstock_server.providers.openai.chat_answer import logprob
from penstock_server.providers.openai.responses_input import PROVIDER
from penstock_server.providers.openai.responses_json import (
    EventJson,
    ItemJson,
    ResponseJson,
    TextJson,
    UsageJson,
    decode_event,
    decode_item,
    decode_response,
)
from penstock_server.providers.transport.sse import ServerSentEvent

# status, or incomplete_details.reason → what it means; "completed" depends on the parts.
_FINISH: Mapping[str, v1.FinishReason.ValueType] = {
    "": v1.FINISH_REASON_UNSPECIFIED,
    "completed": v1.FINISH_REASON_STOP,
    "max_output_tokens": v1.FINISH_REASON_MAX_OUTPUT_TOKENS,
    "max_tokens": v1.FINISH_REASON_MAX_OUTPUT_TOKENS,
    "content_filter": v1.FINISH_REASON_CONTENT_FILTER,
}

# Between two parts of a summary.
_PARAGRAPH = "\n\n"


class ResponsesAnswer(SseAnswer):
    """One answer of the Responses API."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        # (Kind, item, part of it) → how many characters its deltas have brought.
        self._heard: dict[tuple[str, int, int], int] = {}
        self._calls: set[int] = set()
        self._done: set[int] = set()
        self._annotations: list[Any] = []
        self._all_logprobs: list[v1.TokenLogprob] = []
        self._told: UsageJson | None = None

    def whole(self, body: bytes) -> None:
        """Take a whole response."""
        response = self._errors.decoded(decode_response, body)
        if response.error is not None:
            raise self._errors.failure(body)
        if response.output is None:
            raise self._errors.nonsense("sent an answer without any output")
        self._end(response)

    def complete(self) -> EventList:
        """The last events."""
        if self._annotations:
            self.about["annotations"] = self._annotations
        events = super().complete()
        if self._all_logprobs:
            # Those of the deltas have no bytes; these have.
            response = events[-1].completed
            del response.logprobs[:]
            response.logprobs.extend(self._all_logprobs)
        return events

    def _hear(self, event: ServerSentEvent) -> None:
        if event.data == b"[DONE]":  # some servers say it here too
            return
        try:
            heard = decode_event(event.data)
        except (ValueError, RecursionError):
            heard = self._errors.decoded(decode_event, event.data)
        hear = _EVENTS.get(heard.type)
        if hear is not None:
            hear(self, heard)
        elif heard.type in ("error", "response.failed"):
            error = heard.response.error if heard.response else None
            data = msgspec.json.encode({"error": error}) if error else event.data
            raise self._errors.failure(data)
        # What else there is tells of work in progress: the item that is done tells all of it.

    def _finish_reason(self, response: v1.GenerateResponse) -> v1.FinishReason.ValueType:
        reason = _FINISH.get(self.finish_reason, v1.FINISH_REASON_OTHER)
        if reason == v1.FINISH_REASON_STOP:
            kinds = {part.WhichOneof("content") for part in response.message.parts}
            if "tool_call" in kinds:
                return v1.FINISH_REASON_TOOL_CALLS
            if "refusal" in kinds:
                return v1.FINISH_REASON_REFUSAL
        return reason

    def _usage(self) -> v1.Usage | None:
        return None if self._told is None else self._told.to_proto()

    def _hear_created(self, heard: EventJson) -> None:
        response = heard.response or ResponseJson()
        self._begin(response.id, response.model)

    def _hear_end(self, heard: EventJson) -> None:
        self._end(heard.response or ResponseJson())
        self.ended = True

    def _end(self, response: ResponseJson) -> None:
        self._begin(response.id, response.model)
        for index, item in enumerate(response.output or ()):
            if index not in self._done:
                self._item(index, item)
        details = response.incomplete_details
        self.finish_reason = (details.reason if details else None) or response.status or ""
        if response.service_tier:
            self.about["service_tier"] = response.service_tier
        self._told = response.usage

    def _hear_added(self, heard: EventJson) -> None:
        self._begin(None)
        item = self._errors.decoded(decode_item, bytes(heard.item))
        if item.type == "reasoning":
            self._open("thinking", heard.output_index)
        elif item.type == "function_call" and item.name:
            self._call_begins(heard.output_index, item)

    def _hear_done(self, heard: EventJson) -> None:
        self._begin(None)
        self._item(heard.output_index, heard.item)

    def _hear_text(self, heard: EventJson) -> None:
        self._delta("text", heard, heard.content_index)

    def _hear_refusal(self, heard: EventJson) -> None:
        self._delta("refusal", heard, heard.content_index)

    def _delta(self, kind: Kind, heard: EventJson, part: int) -> None:
        text = heard.delta
        if not isinstance(text, str):
            raise self._errors.nonsense("sent a delta that is no text")
        self._begin(None)
        place = (kind, heard.output_index, part)
        self._heard[place] = self._heard.get(place, 0) + len(text)
        logprobs = [logprob(one) for one in heard.logprobs] if heard.logprobs else ()
        self._say(kind, text, (heard.output_index, part), logprobs)

    def _hear_summary(self, heard: EventJson) -> None:
        self._think("summary", heard.output_index, heard.summary_index, heard.delta)

    def _hear_reasoning(self, heard: EventJson) -> None:
        self._think("content", heard.output_index, heard.content_index, heard.delta)

    def _think(self, kind: str, item: int, part: int, thought: object) -> None:
        if not isinstance(thought, str) or not thought:
            return
        self._begin(None)
        place = (kind, item, part)
        first = place not in self._heard
        another = first and any(known[1] == item for known in self._heard)
        self._heard[place] = self._heard.get(place, 0) + len(thought)
        if self.show_thinking:
            self._say("thinking", (_PARAGRAPH if another else "") + thought, item)

    def _hear_arguments(self, heard: EventJson) -> None:
        text = heard.delta
        if not isinstance(text, str) or not text:
            return
        index = heard.output_index
        if index not in self._calls:
            raise self._errors.nonsense("sent arguments of a call that has not begun")
        place = ("tool_call", index, 0)
        self._heard[place] = self._heard.get(place, 0) + len(text)
        self._say("tool_call", text, index)

    def _call_begins(self, index: int, item: ItemJson) -> None:
        self._calls.add(index)
        self._start_call(index, item.call_id or item.id, item.name)

    def _item(self, index: int, data: msgspec.Raw) -> None:
        """An item is done: tell what its deltas have not told."""
        self._done.add(index)
        item = self._errors.decoded(decode_item, bytes(data))
        if item.type == "message":
            own = {"phase": item.phase} if item.phase else {}
            for place, content in enumerate(item.content or ()):
                self._content(index, place, content, own)
        elif item.type == "reasoning":
            self._open("thinking", index)
            for kind, parts in (("summary", item.summary), ("content", item.content)):
                for place, part in enumerate(parts or ()):
                    rest = self._rest(kind, index, place, part.text or "")
                    self._think(kind, index, place, rest)
            self._finish("thinking", index, _own(msgspec.json.decode(data)))
        elif item.type == "function_call":
            if index not in self._calls:
                self._call_begins(index, item)
            self._say("tool_call", self._rest("tool_call", index, 0, item.arguments or ""), index)
            kept = {"namespace": item.namespace, "caller": item.caller}
            own = {name: value for name, value in kept.items() if value is not None}
            self._finish("tool_call", index, _own(own) if own else None)
        else:
            self._opaque(v1.Part(provider_data=_own(msgspec.json.decode(data))))

    def _content(self, index: int, place: int, content: TextJson, own: dict[str, Any]) -> None:
        kind: Kind = "refusal" if content.type == "refusal" else "text"
        text = (content.refusal if kind == "refusal" else content.text) or ""
        logprobs = [logprob(one) for one in content.logprobs or ()]
        self._all_logprobs += logprobs
        self._say(kind, self._rest(kind, index, place, text), (index, place), ())
        self._annotations += content.annotations or ()
        self._finish(kind, (index, place), _own(own) if own else None)

    def _rest(self, kind: str, item: int, part: int, text: str) -> str:
        return text[self._heard.get((kind, item, part), 0) :]


_EVENTS = {
    "response.created": ResponsesAnswer._hear_created,
    "response.in_progress": ResponsesAnswer._hear_created,
    "response.output_item.added": ResponsesAnswer._hear_added,
    "response.output_item.done": ResponsesAnswer._hear_done,
    "response.output_text.delta": ResponsesAnswer._hear_text,
    "response.refusal.delta": ResponsesAnswer._hear_refusal,
    "response.reasoning_summary_text.delta": ResponsesAnswer._hear_summary,
    "response.reasoning_text.delta": ResponsesAnswer._hear_reasoning,
    "response.function_call_arguments.delta": ResponsesAnswer._hear_arguments,
    "response.completed": ResponsesAnswer._hear_end,
    "response.incomplete": ResponsesAnswer._hear_end,
}


def _own(data: object) -> v1.ProviderData:
    return v1.ProviderData(provider=PROVIDER, data=msgspec.json.encode(data))
