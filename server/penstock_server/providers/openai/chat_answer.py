"""What a Chat Completions server answers, whole or in chunks → events, by way of the Assembler.

A whole answer is read as a stream of one chunk, so both ways give the same answer. Reading JSON
does not belong here, see ``chat_json``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from penstock import v1

from penstock_server.providers.answer import Asked, EventList, SseAnswer
from penstock_server.providers.openai.chat_json import (
    AlternativeJson,
    AnswerJson,
    ChoiceJson,
    ContentJson,
    FunctionJson,
    LogprobJson,
    MessageJson,
    ToolCallJson,
    UsageJson,
    decode_answer,
)
from penstock_server.providers.transport.sse import ServerSentEvent

# OpenAI's own words, then those of others, in lower case.
_FINISH: Mapping[str, v1.FinishReason.ValueType] = {
    "": v1.FINISH_REASON_UNSPECIFIED,
    "stop": v1.FINISH_REASON_STOP,
    "length": v1.FINISH_REASON_MAX_OUTPUT_TOKENS,
    "tool_calls": v1.FINISH_REASON_TOOL_CALLS,
    "content_filter": v1.FINISH_REASON_CONTENT_FILTER,
    "function_call": v1.FINISH_REASON_TOOL_CALLS,
    "tool_use": v1.FINISH_REASON_TOOL_CALLS,
    "eos": v1.FINISH_REASON_STOP,  # Together
    "eos_token": v1.FINISH_REASON_STOP,  # TGI
    "stop_sequence": v1.FINISH_REASON_STOP,
    "end_turn": v1.FINISH_REASON_STOP,
    "complete": v1.FINISH_REASON_STOP,
    "max_tokens": v1.FINISH_REASON_MAX_OUTPUT_TOKENS,
    "model_length": v1.FINISH_REASON_CONTEXT_LENGTH,  # Mistral
    "safety": v1.FINISH_REASON_CONTENT_FILTER,  # Google
    "recitation": v1.FINISH_REASON_CONTENT_FILTER,
    "refusal": v1.FINISH_REASON_REFUSAL,
}


class ChatAnswer(SseAnswer):
    """One answer of a Chat Completions server; ``kind`` is the server's, for what is opaque.

    Thoughts that a model writes between tags into its text are text here: whether a tag is one,
    only the server knows, and most have a setting for it.
    """

    def __init__(self, asked: Asked, kind: str = "openai-compatible") -> None:
        super().__init__(asked)
        self._kind_of_server = kind
        self._details: list[Any] = []
        self._extras: dict[int, Any] = {}
        # Place in the server's list → number of the call and its id; numbers never change.
        self._calls: dict[int, tuple[int, str]] = {}
        self._numbers = itertools.count()
        self._told: UsageJson | None = None

    def whole(self, body: bytes) -> None:
        """Take a whole answer: a stream of one chunk."""
        answered = self._errors.decoded(decode_answer, body)
        if answered.error is not None:
            raise self._errors.failure(body)
        if not answered.choices:
            raise self._errors.nonsense("sent an answer without any choices")
        self._take(answered)

    def _hear(self, event: ServerSentEvent) -> None:
        data = event.data
        if data.startswith(b"[DONE]"):
            self.ended = True
            return
        if event.type == "error":
            raise self._errors.failure(data)
        try:
            answered = decode_answer(data)
        except (ValueError, RecursionError):
            answered = self._errors.decoded(decode_answer, data)
        if answered.error is not None:
            raise self._errors.failure(data)
        if not self._more_text(answered):
            self._take(answered)

    def _more_text(self, heard: AnswerJson) -> bool:
        """Take a chunk that brings more of the text and nothing else: nearly all of them do.

        The same as `_take` does with it, in one step; false where there is more to it.
        """
        choices = heard.choices
        if self._speaking != "text" or self._kind not in ("text", None):
            return False
        if not choices or heard.usage is not None:
            return False
        choice = choices[0]
        said = choice.delta
        if (
            said is None
            or type(said.content) is not str
            or choice.finish_reason
            or choice.index
            or choice.logprobs is not None
            or said.tool_calls
            or said.reasoning_content
            or said.reasoning
            or said.refusal
            or said.reasoning_details
            or said.annotations
            or said.audio is not None
            or choice.stop_reason is not None
            or choice.error is not None
            or heard.x_groq is not None
            or heard.citations
            or len(choices) > 1
        ):
            return False
        if said.content:
            self._kind, self._key = "text", "said"
            self._texts.append(said.content)
        return True

    def _cut(self) -> None:
        # Some servers forget "[DONE]"; none forgets why it stopped.
        if not self.finish_reason:
            super()._cut()
        self.ended = True

    def complete(self) -> EventList:
        """The last events."""
        if self.begun:
            self._stop_speaking()
            for number, extra in self._extras.items():
                self._finish("tool_call", number, self._own({"extra_content": extra}))
            if self._details:
                # One opaque part, to be sent back beside whatever else the message holds.
                own = self._own({"reasoning_details": self._details})
                self._opaque(v1.Part(provider_data=own))
        return super().complete()

    def _own(self, data: object) -> v1.ProviderData:
        return v1.ProviderData(provider=self._kind_of_server, data=msgspec.json.encode(data))

    def _take(self, heard: AnswerJson) -> None:
        if self._assembler is None:
            self._begin(heard.id, heard.model)
        choices = heard.choices
        if choices:
            for choice in choices:
                if choice.index == 0:  # never more than one is asked for
                    self._hear_choice(choice)
        if heard.usage is not None:
            self._told = heard.usage
        elif heard.x_groq is not None and heard.x_groq.usage is not None:
            self._told = heard.x_groq.usage
        if heard.system_fingerprint:
            self.about["system_fingerprint"] = heard.system_fingerprint
        if heard.service_tier:
            self.about["service_tier"] = heard.service_tier
        if heard.citations:
            self.about["citations"] = heard.citations

    def _usage(self) -> v1.Usage | None:
        return None if self._told is None else self._told.to_proto()

    def _finish_reason(self, response: v1.GenerateResponse) -> v1.FinishReason.ValueType:
        reason = _FINISH.get(self.finish_reason.lower(), v1.FINISH_REASON_OTHER)
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
        said = choice.delta or choice.message
        if choice.logprobs is not None:
            # They wait for the next text: it is this chunk's, if it has some.
            self._logprobs += map(logprob, choice.logprobs.content or ())
            self._logprobs += map(logprob, choice.logprobs.refusal or ())
        if said is not None:
            self._hear_said(said)
        if choice.error is not None:  # OpenRouter, in the middle of a stream
            raise self._errors.failure(msgspec.json.encode({"error": choice.error}))
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
        if isinstance(choice.stop_reason, str):
            self._begin(None).stop_sequence = choice.stop_reason

    def _hear_said(self, said: MessageJson) -> None:
        # Both names hold the same where a server sends both.
        thought = said.reasoning_content or said.reasoning
        if thought:
            self._think(thought)
        content = said.content
        if content:
            if isinstance(content, str):
                self._speak("text", content)
            else:
                self._hear_list(content)
        if said.refusal:
            self._speak("refusal", said.refusal)
        if said.tool_calls:
            for place, call in enumerate(said.tool_calls):
                self._hear_call(place if call.index is None else call.index, call)
        if said.reasoning_details:
            self._details += said.reasoning_details
        if said.annotations:
            self.about.setdefault("annotations", []).extend(said.annotations)
        if said.audio is not None:
            self.about["audio"] = said.audio

    def _hear_list(self, content: list[ContentJson]) -> None:
        for piece in content:
            if piece.type == "thinking":
                thoughts = piece.thinking or ""
                if not isinstance(thoughts, str):
                    thoughts = "".join(inner.text or "" for inner in thoughts)
                self._think(thoughts)
            elif piece.text:
                self._speak("text", piece.text)

    def _think(self, thought: str) -> None:
        if self.show_thinking:
            self._speak("thinking", thought)

    def _hear_call(self, place: int, call: ToolCallJson) -> None:
        function = call.function or FunctionJson()
        known = self._calls.get(place)
        # Another id with a name is another call, though some servers put all at place 0.
        if known is None or (function.name and call.id and call.id != known[1]):
            self._stop_speaking()
            known = self._calls[place] = (next(self._numbers), call.id or "")
            self._start_call(known[0], call.id, function.name)
        arguments = function.arguments
        if isinstance(arguments, dict):  # some servers forget to make it a string
            arguments = msgspec.json.encode(arguments).decode()
        if arguments:
            self._say("tool_call", arguments, known[0])
        if call.extra_content is not None:  # Google's signatures of thoughts
            self._extras[known[0]] = call.extra_content


def logprob(heard: LogprobJson) -> v1.TokenLogprob:
    """A token's log probability, as both of OpenAI's APIs tell it."""
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
