"""What an `LLM` does, written once for both flavours: requests, events, corrections.

``llm`` has the public names and the two flavours side by side; how waiting is done is
``_flavours``' to know.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc

from penstock import aio, sync, v1
from penstock._emitter import error_data
from penstock._flavours import Asynchronous, Blocking, Flavour, run
from penstock._request import generate_request
from penstock.conversation import AnyMessage, Media, conversation
from penstock.errors import BY_REASON, ModelNotFoundError, PenstockError, ProviderAPIError
from penstock.events import EventEmitter, EventType
from penstock.response import GenerateResponse, of_answer
from penstock.streaming import Ending, Reading
from penstock.tools import definition_of

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
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else its events tell, such as the session's id."""


def _ignored(*_: object) -> None:
    """What does nothing, where nothing is to be done."""


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
        if "system_prompt" in self.defaults:
            self.defaults.setdefault("system", self.defaults.pop("system_prompt"))
        self.events = events
        self.ways: dict[str, int] = {}
        """By which way the model wrote an object of a schema; ``structured``'s to know."""
        self._apart: weakref.WeakSet[Core] = weakref.WeakSet()
        self.blocking = Blocking(self.connection.blocking)
        self.asynchronous = Asynchronous(self.connection.asynchronous)

    def apart(self) -> Core:
        """The same, on connections of its own, which may be closed to cancel what runs there.

        Closing this one closes them, too.
        """
        if self._closed():
            raise RuntimeError("the client is closed")
        other = Core(
            self.provider,
            self.model,
            self._connect,
            timeout=self.timeout,
            defaults=self.defaults,
            events=self.events,
        )
        self._apart.add(other)
        return other

    def close(self) -> None:
        """Close the synchronous connections, and cancel what runs on them."""
        self.connection.blocking.close()
        for other in list(self._apart):
            other.close()

    def _closed(self) -> bool:
        return self.connection.blocking._closed

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
            "list_models", self.provider, timeout=self.seconds(UNSET)
        )
        for failure in found.failures:
            raise _failure(failure)
        return sorted(model.name.removeprefix(f"{self.provider}/") for model in found.models)

    async def prepare(
        self, flavour: Flavour, *, media: Iterable[Media] | None = None, **options: Any
    ) -> Question:
        """`question`, without stopping an event loop where files are to be read."""
        if media:
            return await flavour.work(self.question, media=list(media), **options)
        return self.question(**options)

    def question(
        self,
        prompt: str = "",
        messages: Iterable[AnyMessage] | None = None,
        system_prompt: str | None = None,
        tools: Iterable[Any] | None = None,
        media: Iterable[Media] | None = None,
        timeout: Any = UNSET,
        about: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Question:
        """A question from what the caller wrote, and what was said when the model was made.

        An option that is None was not said. ``about`` goes into its events.
        """
        if options.get("max_tokens") is not None:
            if options.get("max_output_tokens") is not None:
                raise ValueError("max_tokens and max_output_tokens of a call are the same: say one")
            options["max_output_tokens"] = options["max_tokens"]
        options.pop("max_tokens", None)
        told = {**options, "tools": tools}
        if system_prompt is not None:
            told["system"] = system_prompt  # the contract's name for it, which is understood, too
        said = told | {key: it for key, it in self.defaults.items() if told.get(key) is None}
        offered = said.pop("tools")
        seed = said.get("seed")
        if isinstance(seed, int) and seed < 0:
            del said["seed"]  # AbstractCore's word for none
        thinking = said.get("thinking")
        if isinstance(thinking, bool | str):
            said["thinking"] = _THINKING.get(thinking, thinking)
        request = generate_request(
            conversation(prompt, messages, media),
            tools=[_tool(tool) for tool in offered] if offered else None,
            **said,
        )
        return Question(request, self.seconds(timeout), prompt, about or {})

    async def generate(self, flavour: Flavour, question: Question) -> GenerateResponse:
        """Ask, and wait for the whole answer; tells events."""
        await self._name_it(flavour, question)
        began = time.perf_counter()
        try:
            await self._start(flavour, question, False)
            began = time.perf_counter()
            answer = await flavour.call("generate", question.request, timeout=question.timeout)
        except BaseException as error:
            self._failed(question, False, error, _since(began))
            raise
        response = of_answer(answer, _since(began))
        data = self._completed(question, False, response.gen_time, response)
        await flavour.emit(self.events, EventType.GENERATION_COMPLETED, data, self.provider)
        return response

    async def stream(
        self,
        flavour: Flavour,
        question: Question,
        keep: Callable[[Reading], object] = _ignored,
        release: Callable[[], object] = _ignored,
    ) -> Any:
        """The answer as it is written: a `ChunkStream` or an `AsyncChunkStream`; tells events.

        At its end ``keep`` is told what came, and then ``release`` is called; see `Ending`.
        """
        await self._name_it(flavour, question)
        began = time.perf_counter()
        try:
            await self._start(flavour, question, True)
            began = time.perf_counter()
            reading = Reading(question.request.model.partition("/")[2])

            async def over(flavour: Flavour, reading: Reading) -> None:
                release()
                await self._ended(flavour, question, reading)

            ending = Ending(
                keep,
                # Where an event loop runs in this thread, telling by `emit` does not wait.
                lambda reading: run(over(self.blocking, reading)),
                lambda reading: over(flavour, reading),
            )
            return flavour.chunks(question.request, question.timeout, reading, ending)
        except BaseException as error:
            self._failed(question, True, error, _since(began))
            raise

    async def _name_it(self, flavour: Flavour, question: Question) -> None:
        question.request.model = question.request.model or await self.name(flavour)

    def seconds(self, timeout: Any) -> float | None:
        """A call's time limit. None and 0 mean none, as for AbstractCore; UNSET the model's own."""
        seconds = self.timeout if timeout is UNSET else timeout
        return math.inf if not seconds or seconds < 0 else seconds

    # What events tell.

    async def _start(self, flavour: Flavour, question: Question, stream: bool) -> None:
        data = {
            "prompt": question.prompt[:100],
            "has_tools": bool(question.request.tools),
            "stream": stream,
            "model": question.request.model,
            "provider": self.provider,
            **question.about,
        }
        await flavour.emit(self.events, EventType.GENERATION_STARTED, data, self.provider)

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
            **question.about,
        }

    def _failed(self, question: Question, stream: bool, error: BaseException, took: float) -> None:
        # Not awaited, in either flavour: the caller is to hear of the failure first.
        data = self._completed(question, stream, took, error=error)
        self.events.emit(EventType.GENERATION_COMPLETED, data, self.provider)
        if isinstance(error, Exception):
            self.events.emit(EventType.ERROR, _told(question, error), self.provider)

    async def _ended(self, flavour: Flavour, question: Question, reading: Reading) -> None:
        error = reading.error
        data = self._completed(question, True, reading.elapsed, reading.answer, error)
        data["response_length"] = len(reading.content)
        if error is None and reading.answer is None:
            data["error"] = "broken off"
        await flavour.emit(self.events, EventType.GENERATION_COMPLETED, data, self.provider)
        if isinstance(error, Exception):
            await flavour.emit(self.events, EventType.ERROR, _told(question, error), self.provider)


def _told(question: Question, error: Exception) -> dict[str, Any]:
    return error_data(error, {"model": question.request.model})


def _failure(failure: v1.ProviderFailure) -> PenstockError:
    known = v1.ErrorReason.DESCRIPTOR.values_by_number.get(failure.reason)
    wait = failure.retry_delay if failure.HasField("retry_delay") else None
    return BY_REASON.get(failure.reason, ProviderAPIError)(
        failure.message,
        code=grpc.StatusCode.UNAVAILABLE,
        reason=known.name.removeprefix("ERROR_REASON_") if known else "",
        metadata={"provider": failure.provider},
        retry_delay=None if wait is None else wait.seconds + wait.nanos / 1e9,
    )


def _tool(tool: Any) -> v1.Tool:
    return tool if isinstance(tool, v1.Tool) else definition_of(tool).to_proto()


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
