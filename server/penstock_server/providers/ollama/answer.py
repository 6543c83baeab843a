"""What Ollama answers to a chat, whole or in lines → the contract's events."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from penstock import v1

from penstock_server.providers.answer import Answer, Asked
from penstock_server.providers.ollama.json import ChatJson, ToolCallJson, decode_chat
from penstock_server.providers.openai.chat_answer import logprob
from penstock_server.providers.transport.ndjson import Lines, LineTooLong

_FINISH: Mapping[str, v1.FinishReason.ValueType] = {
    "": v1.FINISH_REASON_UNSPECIFIED,
    "stop": v1.FINISH_REASON_STOP,
    "length": v1.FINISH_REASON_MAX_OUTPUT_TOKENS,
}

# Nanoseconds; what becomes provider_metadata.
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


class OllamaAnswer(Answer):
    """One answer of Ollama's."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._lines = Lines()
        self._numbers = itertools.count()
        self._last = ChatJson()

    def feed(self, piece: bytes) -> None:
        """Hear every line that ``piece`` completes, up to the last word."""
        try:
            lines = self._lines.feed(piece) if piece else self._lines.close()
        except LineTooLong as error:
            raise self._errors.nonsense(f"sent {error}") from None
        for line in lines:
            self._hear(line)
            if self.ended:
                return
        if not piece:
            raise self._errors.nonsense("ended its answer in the middle")

    def whole(self, body: bytes) -> None:
        """Take a whole answer: a stream of one line."""
        self._hear(body)
        if not self.ended:
            raise self._errors.nonsense("sent an answer that is not whole")

    def _hear(self, line: bytes) -> None:
        try:
            heard = decode_chat(line)
        except (ValueError, RecursionError):
            heard = self._errors.decoded(decode_chat, line)
        if heard.error is not None:
            raise self._errors.failure(line)
        if not self.begun:
            self._begin(None, heard.model)
        if heard.logprobs:
            self._logprobs += map(logprob, heard.logprobs)
        message = heard.message
        if message is not None:
            if message.thinking and self.show_thinking:
                self._speak("thinking", message.thinking)
            if message.content:
                self._speak("text", message.content)
            for call in message.tool_calls or ():
                self._hear_call(call)
        if heard.done:
            self._last = heard
            self.finish_reason = heard.done_reason or ""
            for name in _DURATIONS:
                if (value := getattr(heard, name)) is not None:
                    self.about[name] = value
            self.ended = True

    def _finish_reason(self, response: v1.GenerateResponse) -> v1.FinishReason.ValueType:
        reason = _FINISH.get(self.finish_reason, v1.FINISH_REASON_OTHER)
        if reason == v1.FINISH_REASON_STOP and any(
            part.HasField("tool_call") for part in response.message.parts
        ):
            return v1.FINISH_REASON_TOOL_CALLS
        return reason

    def _usage(self) -> v1.Usage | None:
        told = self._last
        if told.prompt_eval_count is None and told.eval_count is None:
            return None
        return v1.Usage(
            input_tokens=told.prompt_eval_count or 0, output_tokens=told.eval_count or 0
        )

    def _hear_call(self, call: ToolCallJson) -> None:
        """A call always comes whole."""
        self._stop_speaking()
        number = next(self._numbers)
        self._start_call(number, call.id, call.function.name)
        arguments = bytes(call.function.arguments).decode()
        self._say("tool_call", "" if arguments == "null" else arguments, number)
        self._finish("tool_call", number)
