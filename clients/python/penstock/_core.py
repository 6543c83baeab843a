"""What an `LLM` does, written once for both flavours: requests, events, corrections.

``llm`` has the public names and the two flavours side by side; how waiting is done is
``_flavours``' to know.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import grpc

from penstock import aio, sync, v1
from penstock._flavours import Asynchronous, Blocking, Flavour
from penstock._request import generate_request
from penstock.conversation import AnyMessage, Media, conversation
from penstock.errors import BY_REASON, ModelNotFoundError, ProviderAPIError
from penstock.events import EventEmitter, EventType
from penstock.response import GenerateResponse, of_answer
from penstock.streaming import AsyncChunkStream, ChunkStream, Reading
from penstock.tools import definition_of

_T = TypeVar("_T")

DEFAULT_MODELS: Mapping[str, str] = {
    "openai": "gpt-5-nano",
    "anthropic": "claude-haiku-4-5",
}
"""What is asked where nobody names a model, of providers with too many to choose from."""

CAPABILITIES: Mapping[v1.Capability.ValueType, str] = {
    v1.CAPABILITY_GENERATE: "chat",
    v1.CAPABILITY_STREAM: "streaming",
    v1.CAPABILITY_TOOLS: "tools",
    v1.CAPABILITY_IMAGE_INPUT: "vision",
    v1.CAPABILITY_AUDIO_INPUT: "audio",
    v1.CAPABILITY_DOCUMENT_INPUT: "documents",
    v1.CAPABILITY_THINKING: "thinking",
    v1.CAPABILITY_JSON_OBJECT: "json_mode",
    v1.CAPABILITY_JSON_SCHEMA: "structured_output",
    v1.CAPABILITY_LOGPROBS: "logprobs",
    v1.CAPABILITY_EMBED: "embeddings",
}
"""The contract's capabilities in AbstractCore's words."""

MEDIA_TYPES: Mapping[v1.Capability.ValueType, str] = {
    v1.CAPABILITY_IMAGE_INPUT: "image/*",
    v1.CAPABILITY_AUDIO_INPUT: "audio/*",
    v1.CAPABILITY_DOCUMENT_INPUT: "application/pdf",
}

_THINKING: Mapping[Any, str | None] = {True: "medium", "on": "medium", False: "none", "off": "none",
                                       "auto": None}  # fmt: skip
"""AbstractCore's words for how much to think; its others are the contract's, too."""


class Unset:
    """The type of `UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Any = Unset()
"""Nothing was said, where None says something."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be asked: the request, seconds to wait (None: no limit), and for whom."""

    request: v1.GenerateRequest
    timeout: float | None
    prompt: str = ""
    """What was asked last, as text, for events."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """What else its events tell, such as the session's id."""


class Connection(NamedTuple):
    """The two clients, neither of which does anything before its first call."""

    blocking: sync.Client
    asynchronous: aio.Client


class Core:
    """One model of one server, and what is asked of it unless a call says otherwise.

    ``model`` is None where the provider is to be asked what it has; that is done once.
    """

    def __init__(
        self,
        provider: str,
        model: str | None,
        connect: Callable[[], Connection],
        *,
        timeout: float | None,
        defaults: Mapping[str, Any],
        events: EventEmitter,
    ) -> None:
        self.provider = provider
        self.model = model or DEFAULT_MODELS.get(provider)
        self._connect = connect
        self.connection = connect()
        self.timeout = timeout
        self.defaults = dict(defaults)
        self.events = events
        self.blocking = Blocking(self.connection.blocking)
        self.asynchronous = Asynchronous(self.connection.asynchronous)

    def apart(self) -> Core:
        """The same, on connections of its own, which may be closed to cancel what runs there."""
        return Core(
            self.provider,
            self.model,
            self._connect,
            timeout=self.timeout,
            defaults=self.defaults,
            events=self.events,
        )

    async def name(self, flavour: Flavour) -> str:
        """The model's full name, such as "local/tiny"."""
        if self.model is None:
            models = await self.models(flavour)
            if len(models) != 1:
                have = f"it has {', '.join(models)}" if models else "it has none"
                raise ModelNotFoundError(
                    f"provider {self.provider!r}: say which model; {have}",
                    code=grpc.StatusCode.NOT_FOUND,
                    metadata={"provider": self.provider},
                )
            self.model = models[0]
        return f"{self.provider}/{self.model}"

    async def models(self, flavour: Flavour) -> list[str]:
        """The provider's models, without its name before them. Raises what kept it from saying."""
        found: v1.ListModelsResponse = await flavour.call(
            "list_models", self.provider, timeout=self._seconds(UNSET)
        )
        for failure in found.failures:
            kind = BY_REASON.get(failure.reason, ProviderAPIError)
            raise kind(
                failure.message,
                code=grpc.StatusCode.UNAVAILABLE,
                reason=v1.ErrorReason.Name(failure.reason).removeprefix("ERROR_REASON_"),
                metadata={"provider": failure.provider},
            )
        return sorted(model.name.removeprefix(f"{self.provider}/") for model in found.models)

    def question(
        self,
        prompt: str = "",
        messages: Iterable[AnyMessage] | None = None,
        system_prompt: str | None = None,
        tools: Iterable[Any] | None = None,
        media: Iterable[Media] | None = None,
        thinking: Any = None,
        timeout: Any = UNSET,
        max_tokens: int | None = None,
        labels: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Question:
        """A question from what the caller wrote, and what was said when the model was made."""
        said: dict[str, Any] = {**self.defaults, "max_output_tokens": max_tokens, **options}
        said["max_output_tokens"] = said["max_output_tokens"] or self.defaults.get(
            "max_output_tokens"
        )
        if max_tokens and options.get("max_output_tokens"):
            raise ValueError("max_tokens and max_output_tokens of a call are the same: say one")
        if said.get("seed") is not None and said["seed"] < 0:
            said["seed"] = None  # AbstractCore's word for none
        if thinking is None:
            thinking = said.pop("thinking", None)
        said["thinking"] = _THINKING.get(thinking, thinking) if _is_word(thinking) else thinking
        request = generate_request(
            conversation(prompt, messages, media),
            system=system_prompt,
            tools=[_tool(tool) for tool in tools] if tools else None,
            **said,
        )
        return Question(request, self._seconds(timeout), prompt, labels or {})

    async def generate(self, flavour: Flavour, question: Question) -> GenerateResponse:
        """Ask, and wait for the whole answer; tells events."""
        request = question.request
        request.model = request.model or await self.name(flavour)
        await flavour.emit(
            self.events, EventType.GENERATION_STARTED, self._started(question, False), self.provider
        )
        began = time.perf_counter()
        try:
            answer = await flavour.call("generate", request, timeout=question.timeout)
        except BaseException as error:
            took = (time.perf_counter() - began) * 1000
            self._failed(question, False, error, took)
            raise
        response = of_answer(answer, (time.perf_counter() - began) * 1000)
        data = self._completed(question, False, response.gen_time, response)
        await flavour.emit(self.events, EventType.GENERATION_COMPLETED, data, self.provider)
        return response

    async def open(self, flavour: Flavour, question: Question) -> Question:
        """What comes before a stream; the question with its model's name."""
        question.request.model = question.request.model or await self.name(flavour)
        await flavour.emit(
            self.events, EventType.GENERATION_STARTED, self._started(question, True), self.provider
        )
        return question

    def stream(
        self, question: Question, ended: Callable[[Reading], object] | None = None
    ) -> ChunkStream:
        """An opened question's answer, as it is written; ``ended`` is called at its end."""

        def over(reading: Reading) -> None:
            if ended is not None:
                ended(reading)
            self.events.emit(*self._ended(question, reading), self.provider)

        stream = self.connection.blocking.stream(question.request, timeout=question.timeout)
        return ChunkStream(stream, Reading(_short(question)), over)

    def astream(
        self, question: Question, ended: Callable[[Reading], object] | None = None
    ) -> AsyncChunkStream:
        """`stream`'s twin."""

        def over(reading: Reading) -> None:
            if ended is not None:
                ended(reading)
            self.events.emit(*self._ended(question, reading), self.provider)

        async def told(reading: Reading) -> None:
            if ended is not None:
                ended(reading)
            await self.events.aemit(*self._ended(question, reading), self.provider)

        stream = self.connection.asynchronous.stream(question.request, timeout=question.timeout)
        return AsyncChunkStream(stream, Reading(_short(question)), over, told)

    def _seconds(self, timeout: Any) -> float | None:
        """A call's time limit. None and 0 mean none, as for AbstractCore; UNSET the model's own."""
        seconds = self.timeout if timeout is UNSET else timeout
        return math.inf if not seconds or seconds < 0 else seconds

    # What events tell.

    def _started(self, question: Question, stream: bool) -> dict[str, Any]:
        return {
            "prompt": question.prompt[:100],
            "has_tools": bool(question.request.tools),
            "stream": stream,
            "model": question.request.model,
            "provider": self.provider,
            **question.labels,
        }

    def _completed(
        self,
        question: Question,
        stream: bool,
        duration_ms: float | None,
        response: GenerateResponse | None = None,
        error: BaseException | None = None,
    ) -> dict[str, Any]:
        return {
            "prompt": question.prompt[:100],
            "success": response is not None,
            "error": None if error is None else str(error) or type(error).__name__,
            "response_length": len(response.content or "") if response else 0,
            "stream": stream,
            "model": question.request.model,
            "provider": self.provider,
            "duration_ms": duration_ms,
            "tokens_input": response.input_tokens if response else None,
            "tokens_output": response.output_tokens if response else None,
            "finish_reason": response.finish_reason if response else None,
            **question.labels,
        }

    def _failed(self, question: Question, stream: bool, error: BaseException, took: float) -> None:
        # Not awaited, in either flavour: the caller is to hear of the failure first.
        data = self._completed(question, stream, took, error=error)
        self.events.emit(EventType.GENERATION_COMPLETED, data, self.provider)
        if isinstance(error, Exception):
            self.events.emit_error(error, {"model": question.request.model})

    def _ended(self, question: Question, reading: Reading) -> tuple[EventType, dict[str, Any]]:
        error = reading.error
        data = self._completed(question, True, reading.elapsed, reading.answer, error)
        data["response_length"] = len(reading.content)
        if error is None and reading.answer is None:
            data["error"] = "broken off"
        return EventType.GENERATION_COMPLETED, data


def _tool(tool: Any) -> v1.Tool | Mapping[str, Any]:
    """A tool as the request takes it: a function, a definition, or a description of one."""
    if isinstance(tool, v1.Tool):
        return tool
    if not isinstance(tool, Mapping):
        return definition_of(tool).to_proto()
    described = tool.get("function", tool)  # OpenAI's shape has it one level down
    return {name: value for name, value in described.items() if name in _TOOL_FIELDS}


_TOOL_FIELDS = frozenset(field.name for field in v1.Tool.DESCRIPTOR.fields)


def _is_word(thinking: Any) -> bool:
    return isinstance(thinking, bool | str)


def _short(question: Question) -> str:
    return question.request.model.partition("/")[2]
