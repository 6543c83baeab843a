"""``generate`` and ``agenerate``, the two that all is about, with their many signatures.

What they do is ``_core``'s and ``structured``'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from penstock._core import UNSET, Core
from penstock._flavours import Flavour, run
from penstock.conversation import AnyMessage, Media
from penstock.response import GenerateResponse
from penstock.streaming import AsyncChunkStream, ChunkStream
from penstock.structured import ATTEMPTS, attempts_of, check_stream, generate_structured

if TYPE_CHECKING:
    from pydantic import BaseModel

_ModelT = TypeVar("_ModelT", bound="BaseModel")


class Generating:
    """The part of `penstock.LLM` that asks the model."""

    _core: Core

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
            tools: functions (see `penstock.tool`), or descriptions of tools as dicts.
            media: pictures, sounds, PDF and text, as paths, bytes or URLs, to go with the prompt.
                `get_media_types` tells which the model takes.
            stream: whether to return the answer in pieces, as they come.
            response_model: a pydantic model, of which an instance is returned.
            retry_strategy: how many answers to check against it, or an object with
                ``max_attempts``.
            thinking: how much to think first: "none" to "max", True, False, or tokens.
            timeout: seconds for the whole call. None: no limit. Default: the LLM's own.
            **options: temperature, seed, max_output_tokens (or max_tokens), top_p, stop,
                tool_choice and all else that `penstock.GenerateOptions` has. What is left out,
                or None, is as the LLM's own defaults say.

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
        return run(
            self._ask(
                self._core.blocking,
                stream,
                response_model,
                retry_strategy,
                prompt=prompt,
                messages=messages,
                system_prompt=system_prompt,
                tools=tools,
                media=media,
                thinking=thinking,
                timeout=timeout,
                **options,
            )
        )

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
        return await self._ask(
            self._core.asynchronous,
            stream,
            response_model,
            retry_strategy,
            prompt=prompt,
            messages=messages,
            system_prompt=system_prompt,
            tools=tools,
            media=media,
            thinking=thinking,
            timeout=timeout,
            **options,
        )

    async def _ask(
        self,
        flavour: Flavour,
        stream: bool,
        response_model: type[BaseModel] | None,
        retry_strategy: Any,
        **options: Any,
    ) -> Any:
        check_stream(stream, response_model)
        attempts = attempts_of(retry_strategy)
        question = await self._core.prepare(flavour, **options)
        if stream:
            return await self._core.stream(flavour, question)
        if response_model is not None:
            return await generate_structured(
                self._core, flavour, question, response_model, attempts
            )
        return await self._core.generate(flavour, question)
