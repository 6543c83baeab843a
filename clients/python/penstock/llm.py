"""One model, as AbstractCore's users know it: every call in both flavours, side by side.

`create_llm` makes an `LLM`; what it does is written once, in ``_core``. Conversations that
remember are ``session``'s, many calls at once ``batch``'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from penstock import _about, _tool_loop, aio, sync
from penstock._channel import Metadata, Options, TLSOptions
from penstock._core import UNSET, Connection, Core, Question
from penstock._flavours import Flavour, run
from penstock.batch import (
    CONCURRENCY,
    Plan,
    Prompt,
    Result,
    arguments_of,
    bar,
    in_tasks,
    in_threads,
)
from penstock.conversation import AnyMessage, Media
from penstock.events import EventEmitter, global_bus
from penstock.response import GenerateResponse
from penstock.streaming import AsyncChunkStream, ChunkStream
from penstock.structured import ATTEMPTS, generate_structured

if TYPE_CHECKING:
    from pydantic import BaseModel

_ModelT = TypeVar("_ModelT", bound="BaseModel")


def create_llm(provider: str, model: str | None = None, **kwargs: Any) -> LLM:
    """An `LLM`: one model of one Penstock server. Nothing is connected to before the first call.

    Args:
        provider: the provider's name on the server, such as "openai" or "local"; a full model
            name, "local/tiny", will do, too. Capitals make no difference.
        model: the model's name with that provider. Default: a small one of OpenAI's and
            Anthropic's, of others the only one that there is.
        **kwargs: see `LLM`.

    Example::

        llm = create_llm("openai", model="gpt-4o-mini", temperature=0)
        print(llm.generate("Name a river.").content)
    """
    return LLM(provider, model, **kwargs)


async def acreate_llm(provider: str, model: str | None = None, **kwargs: Any) -> LLM:
    """`create_llm`'s twin: the same object, which has both flavours.

    Example::

        llm = await acreate_llm("openai", model="gpt-4o-mini")
        print((await llm.agenerate("Name a river.")).content)
    """
    return LLM(provider, model, **kwargs)


class LLM:
    """One model of one Penstock server, in both flavours: ``generate`` and ``agenerate``, ….

    It may be shared by threads, and used by one event loop after the other or by several at
    once. A program that only makes synchronous calls never starts an event loop.

    Args:
        provider, model: see `create_llm`.
        target, token, tls, metadata, options: the server; see `penstock.Client`. ``base_url``
            and ``api_key`` are not taken: the server has the providers' addresses and keys.
        timeout: seconds that a call may take, unless it says otherwise. None, or 0: no limit.
        max_tokens: the context that prompt and answer may take together, in tokens.
        max_input_tokens, max_output_tokens: the parts of it. Of the three, any two give the
            third. ``max_output_tokens`` bounds every answer; the others are for the program's
            own planning, since only the model's tokenizer can count.
        temperature, seed, top_p, …: what calls use unless they say otherwise; all that
            `penstock.GenerateOptions` has. What nobody says is left to the provider.
        events: where its events go first; they go on to `penstock.GlobalEventBus`.

    Example::

        with create_llm("local", "tiny", max_output_tokens=100) as llm:
            print(llm.generate("Name a river.").content)
    """

    def __init__(
        self,
        provider: str,
        model: str | None = None,
        *,
        target: str | None = None,
        token: str | None = None,
        tls: bool | TLSOptions | None = None,
        metadata: Metadata | None = None,
        options: Options | None = None,
        timeout: float | None = None,
        max_tokens: int | None = None,
        max_input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        events: EventEmitter | None = None,
        **defaults: Any,
    ) -> None:
        provider, name = _names(provider, model)
        for unknown in ("base_url", "api_key"):
            if unknown in defaults:
                raise TypeError(f"{unknown}: the Penstock server has it; see providers.{provider}")
        self.max_tokens, self.max_input_tokens, self.max_output_tokens = _budget(
            max_tokens, max_input_tokens, max_output_tokens
        )
        self.events = events or EventEmitter(parent=global_bus())
        to: dict[str, Any] = {"token": token, "tls": tls, "metadata": metadata, "options": options}
        self._core = Core(
            provider,
            name,
            lambda: Connection(sync.Client(target, **to), aio.Client(target, **to)),
            timeout=timeout,
            defaults={**defaults, "max_output_tokens": self.max_output_tokens},
            events=self.events,
        )
        self._core.question("?")  # what is wrong with the defaults is said now

    def __repr__(self) -> str:
        return f"LLM({self.provider!r}, {self.model!r})"

    @property
    def provider(self) -> str:
        """The provider's name on the server."""
        return self._core.provider

    @property
    def model(self) -> str | None:
        """The model's name; None while the provider has not been asked which it has."""
        return self._core.model

    @property
    def client(self) -> sync.Client:
        """The client beneath the synchronous calls, for what they do not cover."""
        return self._core.connection.blocking

    @property
    def async_client(self) -> aio.Client:
        """The client beneath the asynchronous calls."""
        return self._core.connection.asynchronous

    # Generating.

    @overload
    def generate(
        self,
        prompt: str = ...,
        *,
        stream: Literal[False] = ...,
        response_model: None = ...,
        **options: Any,
    ) -> GenerateResponse: ...
    @overload
    def generate(
        self,
        prompt: str = ...,
        *,
        stream: Literal[True],
        response_model: None = ...,
        **options: Any,
    ) -> ChunkStream: ...
    @overload
    def generate(
        self, prompt: str = ..., *, response_model: type[_ModelT], **options: Any
    ) -> _ModelT: ...
    def generate(
        self,
        prompt: str = "",
        messages: Iterable[AnyMessage] | None = None,
        system_prompt: str | None = None,
        tools: Iterable[Any] | None = None,
        media: Iterable[Media] | None = None,
        stream: bool = False,
        *,
        response_model: type[BaseModel] | None = None,
        retry_strategy: Any = ATTEMPTS,
        thinking: Any = None,
        timeout: float | None = UNSET,
        **options: Any,
    ) -> Any:
        """Ask the model.

        Args:
            prompt: what is asked, as a user's last message.
            messages: what was said before, oldest first: dicts with role and content,
                `penstock.Message`, or the contract's messages.
            system_prompt: instructions to the model.
            tools: functions (see `penstock.tool`), or descriptions of tools.
            media: pictures, sounds, PDF and text, as paths, bytes or URLs, to go with the prompt.
                `get_media_types` tells which the model takes.
            stream: whether to return the answer in pieces, as they come.
            response_model: a pydantic model, of which an instance is returned.
            retry_strategy: how many answers to check against it, or an object with
                ``max_attempts``.
            thinking: how much to think first: "none" to "max", True, False, or tokens.
            timeout: seconds for the whole call. None: no limit. Default: the LLM's own.
            **options: temperature, seed, max_output_tokens (or max_tokens), top_p, stop,
                tool_choice and all else that `penstock.GenerateOptions` has.

        Returns:
            `GenerateResponse`; with ``stream`` a `ChunkStream` of them; with
            ``response_model`` an instance of it.

        Raises:
            PenstockError: the call failed, see `penstock.errors`; `StructuredOutputError` where
                no answer fits ``response_model``.
            ValueError, TypeError: the arguments make no request.

        Example::

            llm.generate("Name a river.", temperature=0).content
        """
        question = self._core.question(
            prompt, messages, system_prompt, tools, media, thinking, timeout, **options
        )
        flavour = self._core.blocking
        if stream:
            _check_stream(response_model)
            return self._core.stream(run(self._core.open(flavour, question)))
        if response_model is not None:
            attempts = attempts_of(retry_strategy)
            return run(generate_structured(self._core, flavour, question, response_model, attempts))
        return run(self._core.generate(flavour, question))

    @overload
    async def agenerate(
        self,
        prompt: str = ...,
        *,
        stream: Literal[False] = ...,
        response_model: None = ...,
        **options: Any,
    ) -> GenerateResponse: ...
    @overload
    async def agenerate(
        self,
        prompt: str = ...,
        *,
        stream: Literal[True],
        response_model: None = ...,
        **options: Any,
    ) -> AsyncChunkStream: ...
    @overload
    async def agenerate(
        self, prompt: str = ..., *, response_model: type[_ModelT], **options: Any
    ) -> _ModelT: ...
    async def agenerate(
        self,
        prompt: str = "",
        messages: Iterable[AnyMessage] | None = None,
        system_prompt: str | None = None,
        tools: Iterable[Any] | None = None,
        media: Iterable[Media] | None = None,
        stream: bool = False,
        *,
        response_model: type[BaseModel] | None = None,
        retry_strategy: Any = ATTEMPTS,
        thinking: Any = None,
        timeout: float | None = UNSET,
        **options: Any,
    ) -> Any:
        """Ask the model; see `generate`. With ``stream``, await, then iterate.

        Example::

            async for chunk in await llm.agenerate("Count to ten.", stream=True):
                print(chunk.content, end="", flush=True)
        """
        question = self._core.question(
            prompt, messages, system_prompt, tools, media, thinking, timeout, **options
        )
        flavour = self._core.asynchronous
        if stream:
            _check_stream(response_model)
            return self._core.astream(await self._core.open(flavour, question))
        if response_model is not None:
            attempts = attempts_of(retry_strategy)
            return await generate_structured(
                self._core, flavour, question, response_model, attempts
            )
        return await self._core.generate(flavour, question)

    # Many at once.

    @overload
    def batch(
        self, prompts: Iterable[Prompt], *, as_completed: Literal[False] = ..., **options: Any
    ) -> list[Result]: ...
    @overload
    def batch(
        self, prompts: Iterable[Prompt], *, as_completed: Literal[True], **options: Any
    ) -> Iterator[tuple[int, Result]]: ...
    def batch(
        self,
        prompts: Iterable[Prompt],
        *,
        max_concurrency: int = CONCURRENCY,
        as_completed: bool = False,
        return_exceptions: bool = False,
        progress: bool | None = None,
        **options: Any,
    ) -> Any:
        """Ask many things at once; takes about as long as the slowest of them.

        Args:
            prompts: texts, or mappings with the arguments of `generate`.
            max_concurrency: how many calls run at a time.
            as_completed: whether to return an iterator of ``(place, result)`` as answers come,
                instead of a list in the order of the prompts.
            return_exceptions: whether a failed call's `PenstockError` is its result. Else the
                first failure is raised, and what still runs is cancelled.
            progress: whether to show a bar on stderr. Default: where a terminal watches.
            **options: as of `generate`, for all of them.

        A server that says "too many, come back later" (RateLimitError) is heeded by all calls of
        the batch, which then are made again, up to five times.

        Example::

            for response in llm.batch([f"Summarise: {text}" for text in texts]):
                print(response.content)
        """
        core = self._core.apart()  # a connection of its own: closing it cancels what runs
        plan = self._plan(core, prompts, options)
        workers = _workers(max_concurrency, plan)

        def results() -> Iterator[tuple[int, Result]]:
            try:
                with bar(len(plan.questions), progress, repr(self)) as moved:
                    for place, result in in_threads(plan, core.blocking, workers):
                        moved()
                        if isinstance(result, BaseException) and not return_exceptions:
                            raise result
                        yield place, result
            finally:
                core.connection.blocking.close()

        if as_completed:
            return results()
        found = dict(results())
        return [found[place] for place in range(len(plan.questions))]

    @overload
    async def abatch(
        self, prompts: Iterable[Prompt], *, as_completed: Literal[False] = ..., **options: Any
    ) -> list[Result]: ...
    @overload
    async def abatch(
        self, prompts: Iterable[Prompt], *, as_completed: Literal[True], **options: Any
    ) -> AsyncIterator[tuple[int, Result]]: ...
    async def abatch(
        self,
        prompts: Iterable[Prompt],
        *,
        max_concurrency: int = CONCURRENCY,
        as_completed: bool = False,
        return_exceptions: bool = False,
        progress: bool | None = None,
        **options: Any,
    ) -> Any:
        """`batch`'s twin. With ``as_completed``, await, then iterate.

        Example::

            async for place, result in await llm.abatch(prompts, as_completed=True):
                print(place, result.content)
        """
        plan = self._plan(self._core, prompts, options)
        workers = _workers(max_concurrency, plan)

        async def results() -> AsyncIterator[tuple[int, Result]]:
            with bar(len(plan.questions), progress, repr(self)) as moved:
                async with aclosing(in_tasks(plan, self._core.asynchronous, workers)) as found:
                    async for place, result in found:
                        moved()
                        if isinstance(result, BaseException) and not return_exceptions:
                            raise result
                        yield place, result

        if as_completed:
            return results()
        found = {place: result async for place, result in results()}
        return [found[place] for place in range(len(plan.questions))]

    # With tools.

    def run_tools(
        self,
        prompt: str = "",
        tools: Sequence[Any] = (),
        *,
        max_rounds: int = _tool_loop.ROUNDS,
        tool_timeout: float | None = None,
        **options: Any,
    ) -> GenerateResponse:
        """Ask, call the tools that the model wants, tell it what came of them, and so on.

        Args:
            prompt: what is asked.
            tools: functions (see `penstock.tool`).
            max_rounds: how often the model is asked at most.
            tool_timeout: seconds that each tool may take. A tool that fails, or takes longer, is
                told to the model as having failed.
            **options: as of `generate`.

        Returns:
            The answer that wants no tools; its ``metadata`` has ``tool_rounds``,
            ``tool_results``, ``total_usage`` of all rounds, and ``messages``, the whole
            conversation, to go on from.

        Raises:
            ToolLoopError: after ``max_rounds`` the model still wants tools.

        Example::

            llm.run_tools("Do I need an umbrella in Oslo?", [weather]).content
        """
        question = self._core.question(prompt, tools=tools, **options)
        return run(
            _tool_loop.run_tools(
                self._core,
                self._core.blocking,
                question,
                tools,
                rounds=max_rounds,
                timeout=tool_timeout,
            )
        )

    async def arun_tools(
        self,
        prompt: str = "",
        tools: Sequence[Any] = (),
        *,
        max_rounds: int = _tool_loop.ROUNDS,
        tool_timeout: float | None = None,
        **options: Any,
    ) -> GenerateResponse:
        """`run_tools`' twin."""
        question = self._core.question(prompt, tools=tools, **options)
        return await _tool_loop.run_tools(
            self._core,
            self._core.asynchronous,
            question,
            tools,
            rounds=max_rounds,
            timeout=tool_timeout,
        )

    # What there is.

    def get_capabilities(self) -> list[str]:
        """What the model can do, in AbstractCore's words: "chat", "streaming", "tools", ….

        Example::

            "vision" in llm.get_capabilities()
        """
        return run(_about.capabilities(self._core, self._core.blocking))

    async def aget_capabilities(self) -> list[str]:
        """`get_capabilities`' twin."""
        return await _about.capabilities(self._core, self._core.asynchronous)

    def get_media_types(self) -> list[str]:
        """What ``media`` the model takes: "text/*", and "image/*" and the like where it can."""
        return run(_about.media_types(self._core, self._core.blocking))

    async def aget_media_types(self) -> list[str]:
        """`get_media_types`' twin."""
        return await _about.media_types(self._core, self._core.asynchronous)

    def list_available_models(self) -> list[str]:
        """The provider's models."""
        return run(self._core.models(self._core.blocking))

    async def alist_available_models(self) -> list[str]:
        """`list_available_models`' twin."""
        return await self._core.models(self._core.asynchronous)

    def health(self, timeout: float = 5.0) -> dict[str, Any]:
        """Whether the provider can be asked: ``{"status": "healthy" or "unhealthy", "provider",
        "models", "model_count", "error", "latency_ms"}``. Does not raise for what is wrong there.
        """
        return run(_about.health(self._core, self._core.blocking, timeout))

    async def ahealth(self, timeout: float = 5.0) -> dict[str, Any]:
        """`health`'s twin."""
        return await _about.health(self._core, self._core.asynchronous, timeout)

    # Vectors.

    def embed(self, input_text: str | Sequence[str], **options: Any) -> dict[str, Any]:
        """Texts as vectors, in the shape of OpenAI's API: ``{"object": "list", "data":
        [{"object": "embedding", "embedding": [...], "index": 0}, ...], "model", "usage"}``.

        ``options`` are dimensions, timeout and provider_options. Raises where it fails: there
        are no vectors of zeros here.
        """
        return run(_about.embed(self._core, self._core.blocking, input_text, **options))

    async def aembed(self, input_text: str | Sequence[str], **options: Any) -> dict[str, Any]:
        """`embed`'s twin."""
        return await _about.embed(self._core, self._core.asynchronous, input_text, **options)

    # Local models.

    def load_model(
        self,
        model_name: str | None = None,
        *,
        on_progress: Callable[[float, str], object] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Have a local model brought into memory, and wait until it is there.

        ``on_progress`` is told how far that is (0 to 1), and the stage.
        """
        run(_about.load(self._core, self._core.blocking, model_name, on_progress, timeout))

    async def aload_model(
        self,
        model_name: str | None = None,
        *,
        on_progress: Callable[[float, str], object] | None = None,
        timeout: float | None = None,
    ) -> None:
        """`load_model`'s twin."""
        await _about.load(self._core, self._core.asynchronous, model_name, on_progress, timeout)

    def unload_model(self, model_name: str | None = None) -> None:
        """Free a local model's memory, once its running answers are finished."""
        run(_about.unload(self._core, self._core.blocking, model_name))

    async def aunload_model(self, model_name: str | None = None) -> None:
        """`unload_model`'s twin."""
        await _about.unload(self._core, self._core.asynchronous, model_name)

    # Closing.

    def __enter__(self) -> Self:
        self.client.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.async_client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """Close the synchronous connection, and cancel what runs on it.

        Event loops close theirs when they end.
        """
        self.client.close()

    async def aclose(self) -> None:
        """Close both connections, this event loop's and the synchronous one."""
        await self.async_client.close()
        self.client.close()

    def _plan(self, core: Core, prompts: Iterable[Prompt], options: dict[str, Any]) -> Plan:
        response_model = options.pop("response_model", None)
        attempts = attempts_of(options.pop("retry_strategy", ATTEMPTS))
        questions = [core.question(**{**options, **arguments_of(prompt)}) for prompt in prompts]

        async def ask(core: Core, flavour: Flavour, question: Question) -> Any:
            if response_model is None:
                return await core.generate(flavour, question)
            return await generate_structured(core, flavour, question, response_model, attempts)

        return Plan(questions, ask, core)


def _workers(max_concurrency: int, plan: Plan) -> int:
    if max_concurrency < 1:
        raise ValueError("max_concurrency: must be at least 1")
    return min(max_concurrency, len(plan.questions))


def _names(provider: str, model: str | None) -> tuple[str, str | None]:
    """Provider and model, from either "local", "tiny" or "local/tiny"."""
    first, slash, rest = provider.partition("/")
    if slash and model:
        raise ValueError(f"{provider!r} names a model already; leave out model={model!r}")
    first = first.lower()
    if not first:
        raise ValueError("provider: must not be empty")
    return first, rest or (model.removeprefix(f"{first}/") if model else None)


def _budget(
    whole: int | None, inputs: int | None, outputs: int | None
) -> tuple[int | None, int | None, int | None]:
    """The three token limits; what two of them say of the third."""
    for name, value in (("max_tokens", whole), ("max_input_tokens", inputs),
                        ("max_output_tokens", outputs)):  # fmt: skip
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be at least 1")
    if whole is not None:
        if max(inputs or 0, outputs or 0) >= whole:
            raise ValueError("max_tokens: must be more than max_input_tokens and max_output_tokens")
        if inputs is not None and outputs is not None and inputs + outputs > whole:
            raise ValueError(
                "max_tokens: is less than max_input_tokens and max_output_tokens add up to"
            )
        if inputs is not None and outputs is None:
            outputs = whole - inputs
        elif outputs is not None and inputs is None:
            inputs = whole - outputs
    elif inputs is not None and outputs is not None:
        whole = inputs + outputs
    return whole, inputs, outputs


def attempts_of(strategy: Any) -> int:
    """How many answers to check: a number, or what has ``max_attempts``."""
    attempts = int(getattr(strategy, "max_attempts", strategy))
    if attempts < 1:
        raise ValueError("retry_strategy: must allow at least 1 answer")
    return attempts


def _check_stream(response_model: object) -> None:
    if response_model is not None:
        raise ValueError("stream and response_model: an instance cannot come in pieces")
