"""What a Chat Completions server answers, whole or in chunks → events, by way of the Assembler.

A whole answer is read as a stream of one chunk, so both ways give the same answer. Reading JSON
does not belong here, see ``chat_json``.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Mapping

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers.assembler import Assembler, Kind
from penstock_server.providers.chat_json import (
    AlternativeJson,
    AnswerJson,
    ChoiceJson,
    FunctionJson,
    LogprobJson,
    MessageJson,
    ToolCallJson,
    UsageJson,
)

_FINISH: Mapping[str, v1.FinishReason.ValueType] = {
    "": v1.FINISH_REASON_UNSPECIFIED,
    "stop": v1.FINISH_REASON_STOP,
    "length": v1.FINISH_REASON_MAX_OUTPUT_TOKENS,
    "tool_calls": v1.FINISH_REASON_TOOL_CALLS,
    "content_filter": v1.FINISH_REASON_CONTENT_FILTER,
}

# The key under which the assembler knows what the model says itself, as against tool calls. With
# a key of its own, a text that comes between two pieces of a tool call leaves the call open.
_SAID = "said"


EventList = list[v1.StreamGenerateResponse]


class Answer:
    """One answer, as it is heard.

    Say `hear` for each chunk, then `events` for what has to be sent on; text that was heard
    between two calls of `events` makes one event. `complete` once it has ended. ``model`` is the
    name that was asked for, ``request_id`` stands in where the server names no id.

    Example::

        answer = Answer("r1", "openai", "openai/gpt-5-nano", arrived, show_thinking=True)
        for data in one_network_read:
            answer.hear(decode_answer(data))
        for event in answer.events(): yield event
    """

    def __init__(
        self, request_id: str, provider: str, model: str, arrived: float, *, show_thinking: bool
    ) -> None:
        self._request_id = request_id
        self._provider = provider
        self._model = model
        self._arrived = arrived
        self._show_thinking = show_thinking
        self._assembler: Assembler | None = None
        self._events: EventList = []
        # What was heard and not yet made an event.
        self._kind: Kind | None = None
        self._key: str | int = _SAID
        self._texts: list[str] = []
        self._logprobs: list[LogprobJson] = []
        # What the model is saying now: text, thoughts or a refusal.
        self._speaking: Kind | None = None
        # Place in the server's list → number of the call and its id; numbers never change.
        self._calls: dict[int, tuple[int, str]] = {}
        self._numbers = itertools.count()
        self._empty_calls: set[int] = set()
        self._usage: UsageJson | None = None
        self._about: dict[str, str] = {}
        self.finish_reason = ""
        """The server's own; "" as long as it has named none."""

    def hear(self, heard: AnswerJson) -> None:
        """Take one chunk, or a whole answer. Raises `Failure` where it makes no sense."""
        if self._assembler is None:
            self._begin(heard)
        if heard.system_fingerprint:
            self._about["system_fingerprint"] = heard.system_fingerprint
        if heard.service_tier:
            self._about["service_tier"] = heard.service_tier
        if heard.usage is not None:
            self._usage = heard.usage
        for choice in heard.choices or ():
            if choice.index == 0:  # never more than one is asked for
                self._hear_choice(choice)

    def events(self) -> EventList:
        """What to send on now."""
        self._flush()
        events, self._events = self._events, []
        return events

    def complete(self) -> EventList:
        """The last events. Nothing may be heard after them."""
        assembler = self._assembler
        if assembler is None:
            raise Failure(
                v1.ERROR_REASON_PROVIDER_PROTOCOL,
                f"provider {self._provider!r} ended its answer before it began",
            )
        self._flush()
        for number in sorted(self._empty_calls):
            self._events += assembler.add("tool_call", "{}", key=number)
        response = assembler.response
        response.logprobs.extend(map(_logprob, self._logprobs))  # of tokens without any text
        response.provider_finish_reason = self.finish_reason
        response.provider_metadata.update(self._about)
        usage = None if self._usage is None else self._usage.to_proto()
        self._events += assembler.complete(self._finish(response), usage)
        events, self._events = self._events, []
        return events

    def _begin(self, heard: AnswerJson) -> None:
        # Not earlier: the first event tells the answer's id, which is the server's.
        self._assembler = Assembler(heard.id or self._request_id, self._model, self._arrived)
        if heard.model and not self._model.endswith(f"/{heard.model}"):
            self._about["model"] = heard.model
        self._events.append(self._assembler.started())

    def _finish(self, response: v1.GenerateResponse) -> v1.FinishReason.ValueType:
        reason = _FINISH.get(self.finish_reason, v1.FINISH_REASON_OTHER)
        if reason in (v1.FINISH_REASON_STOP, v1.FINISH_REASON_UNSPECIFIED):
            # OpenAI says "stop" for a call that was forced, and for a refusal; some servers for
            # every call.
            kinds = {part.WhichOneof("content") for part in response.message.parts}
            if "tool_call" in kinds:
                return v1.FINISH_REASON_TOOL_CALLS
            if "refusal" in kinds:
                return v1.FINISH_REASON_REFUSAL
        return reason

    def _hear_choice(self, choice: ChoiceJson) -> None:
        said = choice.delta or choice.message or MessageJson()
        # Both names hold the same where a server sends both.
        thought = said.reasoning_content or said.reasoning
        if thought and self._show_thinking:
            self._say("thinking", thought)
        if said.content:
            self._say("text", said.content)
        if said.refusal:
            self._say("refusal", said.refusal)
        # Tokens without text (half a letter, say) wait here for the next that has some.
        if choice.logprobs is not None:
            self._logprobs += choice.logprobs.content or ()
            self._logprobs += choice.logprobs.refusal or ()
        for place, call in enumerate(said.tool_calls or ()):
            self._hear_call(place if call.index is None else call.index, call)
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
        if isinstance(choice.stop_reason, str) and self._assembler:
            self._assembler.response.stop_sequence = choice.stop_reason

    def _say(self, kind: Kind, text: str, key: str | int = _SAID) -> None:
        if (kind, key) != (self._kind, self._key):
            self._flush()
            self._kind, self._key = kind, key
        self._texts.append(text)

    def _hear_call(self, place: int, call: ToolCallJson) -> None:
        function = call.function or FunctionJson()
        known = self._calls.get(place)
        # Another id with a name is another call, though some servers put all at place 0.
        if known is None or (function.name and call.id and call.id != known[1]):
            known = self._start_call(place, call.id or "", function.name or "")
        if function.arguments:
            self._empty_calls.discard(known[0])
            self._say("tool_call", function.arguments, known[0])

    def _start_call(self, place: int, call_id: str, name: str) -> tuple[int, str]:
        if not name or self._assembler is None:
            raise Failure(
                v1.ERROR_REASON_PROVIDER_PROTOCOL,
                f"provider {self._provider!r} sent a tool call without a name",
            )
        self._flush()
        self._stop_speaking(None)
        number = next(self._numbers)
        known = self._calls[place] = (number, call_id)
        self._empty_calls.add(number)
        call_id = call_id or f"call_{secrets.token_hex(12)}"
        self._events += self._assembler.start_tool_call(number, call_id=call_id, name=name)
        return known

    def _stop_speaking(self, next_kind: Kind | None) -> None:
        """Another kind of part ends what the model was saying; its calls stay open."""
        if self._speaking not in (None, next_kind) and self._assembler is not None:
            self._events += self._assembler.finish_part(self._speaking, _SAID)
        self._speaking = next_kind

    def _flush(self) -> None:
        if self._kind is None or self._assembler is None:
            return
        kind, key, text = self._kind, self._key, "".join(self._texts)
        self._kind, self._texts = None, []
        logprobs, self._logprobs = self._logprobs, []
        if kind != "tool_call":
            self._stop_speaking(kind)
        self._events += self._assembler.add(kind, text, key=key, logprobs=map(_logprob, logprobs))


def _logprob(heard: LogprobJson) -> v1.TokenLogprob:
    return v1.TokenLogprob(
        token=heard.token,
        token_bytes=bytes(heard.bytes or ()),
        logprob=heard.logprob,
        top=_alternatives(heard.top_logprobs or ()),
    )


def _alternatives(heard: Iterable[AlternativeJson]) -> list[v1.TokenLogprob.Alternative]:
    return [
        v1.TokenLogprob.Alternative(
            token=one.token, token_bytes=bytes(one.bytes or ()), logprob=one.logprob
        )
        for one in heard
    ]
