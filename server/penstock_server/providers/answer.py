"""One answer of one vendor, as it is heard: what all vendors' readers have in common.

A vendor's reader says what it heard by the methods with an underscore; here it is gathered, so that
the deltas of one network read make one event for each part, and handed to the `Assembler`. What
bytes mean is the vendor's own.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from penstock import v1

from penstock_server.providers import Call
from penstock_server.providers.assembler import Assembler, Kind
from penstock_server.providers.transport.errors import ErrorReader
from penstock_server.providers.transport.sse import EventStream, EventTooLong, ServerSentEvent

EventList = list[v1.StreamGenerateResponse]


class Asked(NamedTuple):
    """What an answer is the answer to."""

    provider: str
    """The provider's name."""
    model: str
    """The full name that was asked for, "provider/model"."""
    request: v1.GenerateRequest
    call: Call
    errors: ErrorReader


class Answer(ABC):
    """Reads one answer.

    Say `feed` for each network read of a stream, b"" for the end of the connection, or `whole` once
    for a whole body; `events` for what has to be sent on, also after `feed` raised; `complete` once
    `ended` is true. Both ways give the same answer.

    Example::

        answer.feed(piece)
        for event in answer.events(): yield event
        if answer.ended:
            for event in answer.complete(): yield event
    """

    def __init__(self, asked: Asked) -> None:
        thinking = asked.request.thinking
        self.show_thinking = thinking.include or not thinking.HasField("include")
        """False where the caller does not want to see thoughts."""
        self.ended = False
        """Whether the answer has said its last word, in good order."""
        self.about: dict[str, Any] = {}
        """What becomes ``provider_metadata``."""
        self.finish_reason = ""
        """The vendor's own word; "" as long as it has said none."""
        self._model = asked.model
        self._call = asked.call
        self._errors = asked.errors
        self._assembler: Assembler | None = None
        self._events: EventList = []
        # What was heard and not yet made an event.
        self._kind: Kind | None = None
        self._key: Hashable = None
        self._texts: list[str] = []
        self._logprobs: list[v1.TokenLogprob] = []
        # What the model is saying, where the vendor does not tell parts apart: see `_speak`.
        self._speaking: Kind | None = None
        # Calls that have no arguments yet.
        self._empty_calls: dict[Hashable, None] = {}

    @abstractmethod
    def feed(self, piece: bytes) -> None:
        """Take what a network read brought; b"" once the connection has ended in good order."""

    @abstractmethod
    def whole(self, body: bytes) -> None:
        """Take a whole answer."""

    @property
    def begun(self) -> bool:
        """Whether anything of the answer has been heard."""
        return self._assembler is not None

    def events(self) -> EventList:
        """What to send on now."""
        self._flush()
        events, self._events = self._events, []
        return events

    def complete(self) -> EventList:
        """The last events. Nothing may be heard after them."""
        assembler = self._assembler
        if assembler is None:
            raise self._errors.nonsense("ended its answer before it began")
        self._flush()
        for key in list(self._empty_calls):
            self._finish("tool_call", key)
        self._flush()
        # So that the finish reason can go by what the parts are.
        self._events += assembler.finish_parts()
        response = assembler.response
        response.logprobs.extend(self._logprobs)  # of tokens without any text
        response.provider_finish_reason = self.finish_reason
        _describe(response, self.about)
        self._events += assembler.complete(self._finish_reason(response), self._usage())
        events, self._events = self._events, []
        return events

    @abstractmethod
    def _finish_reason(self, response: v1.GenerateResponse) -> v1.FinishReason.ValueType:
        """Why it ended; ``response`` has all its parts."""

    @abstractmethod
    def _usage(self) -> v1.Usage | None:
        """What it cost; None where the vendor did not say."""

    # ── for the vendors' readers ──────────────────────────────────────────────────────────────

    def _begin(self, answer_id: str | None, model: str | None = None) -> v1.GenerateResponse:
        """The answer begins: the vendor's id of it, and the model that it says it is.

        Saying it again changes nothing. The response may be filled with what has no method here.
        """
        if self._assembler is None:
            # Not earlier: the first event tells the answer's id, which is the vendor's.
            answer_id = answer_id or self._call.request_id
            self._assembler = Assembler(answer_id, self._model, self._call.arrived)
            if model and not self._model.endswith(f"/{model}"):
                self.about["model"] = model
            self._events.append(self._assembler.started())
        return self._assembler.response

    def _say(
        self,
        kind: Kind,
        text: str,
        key: Hashable = "said",
        logprobs: Sequence[v1.TokenLogprob] = (),
    ) -> None:
        """More of the part that has this ``key``; it begins where it has not yet.

        Tokens without text (half a letter, say) wait for the next that has some.
        """
        self._logprobs += logprobs
        if not text:
            return
        if kind != self._kind or key != self._key:
            self._flush()
            self._kind, self._key = kind, key
            if kind == "tool_call":
                self._empty_calls.pop(key, None)
        self._texts.append(text)

    def _speak(self, kind: Kind, text: str) -> None:
        """More text, thought or refusal of a vendor that numbers no parts.

        Another kind ends what the model was saying; its calls stay open.
        """
        if kind != self._speaking:
            self._stop_speaking()
            self._speaking = kind
        self._say(kind, text)

    def _stop_speaking(self) -> None:
        if self._speaking is not None:
            self._finish(self._speaking)
            self._speaking = None

    def _start_call(self, key: Hashable, call_id: str | None, name: str | None) -> None:
        """A tool call begins; its arguments are said with its ``key``."""
        if not name:
            raise self._errors.nonsense("sent a tool call without a name")
        assert self._assembler is not None, "_begin comes first"
        self._flush()
        self._empty_calls[key] = None
        call_id = call_id or f"call_{secrets.token_hex(12)}"
        self._events += self._assembler.start_tool_call(key, call_id=call_id, name=name)

    def _finish(
        self, kind: Kind, key: Hashable = "said", provider_data: v1.ProviderData | None = None
    ) -> None:
        """The part is whole. A call without arguments gets "{}"."""
        assert self._assembler is not None, "_begin comes first"
        self._flush()
        if kind == "tool_call" and key in self._empty_calls:
            del self._empty_calls[key]
            self._events += self._assembler.add("tool_call", "{}", key=key)
        self._events += self._assembler.finish_part(kind, key, provider_data=provider_data)

    def _open(self, kind: Kind, key: Hashable) -> None:
        """A part begins that may stay without text: with opaque data only, say."""
        assert self._assembler is not None, "_begin comes first"
        self._flush()
        self._events += self._assembler.add(kind, "", key=key)

    def _opaque(self, part: v1.Part) -> None:
        """A part that came in one piece."""
        assert self._assembler is not None, "_begin comes first"
        self._flush()
        self._events += self._assembler.whole_part(part)

    def _flush(self) -> None:
        if self._kind is None or self._assembler is None:
            return
        kind, key, text = self._kind, self._key, "".join(self._texts)
        self._kind, self._texts = None, []
        logprobs, self._logprobs = self._logprobs, []
        self._events += self._assembler.add(kind, text, key=key, logprobs=logprobs)


def _describe(response: v1.GenerateResponse, about: Mapping[str, Any]) -> None:
    """``provider_metadata``; most of it is text, and `Struct.update` is slow with that."""
    for name, value in about.items():
        if isinstance(value, str):
            response.provider_metadata.fields[name].string_value = value
        else:
            response.provider_metadata.update({name: value})


class SseAnswer(Answer):
    """An answer whose stream is made of server-sent events."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._stream = EventStream()

    def feed(self, piece: bytes) -> None:
        """Hear every event that ``piece`` completes, up to the last word."""
        try:
            events = self._stream.feed(piece) if piece else self._stream.close()
        except EventTooLong as error:
            raise self._errors.nonsense(f"sent {error}") from None
        for event in events:
            self._hear(event)
            if self.ended:
                return
        if not piece:
            self._cut()

    @abstractmethod
    def _hear(self, event: ServerSentEvent) -> None:
        """Take one event; set ``ended`` at the last word."""

    def _cut(self) -> None:
        """The connection has ended in good order, before the last word was said."""
        raise self._errors.nonsense("ended its answer in the middle")
