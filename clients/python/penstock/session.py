"""Conversations that remember: `BasicSession`, as AbstractCore's users know it.

A session keeps what was said and sends it along with the next prompt. How it is stored is
``archive``'s to know, what is generated ``llm``'s.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from penstock import archive
from penstock._compacting import RECENT, compact
from penstock._core import Question
from penstock._exchange import Exchange, said_by
from penstock._flavours import Flavour, run
from penstock._turns import Ticket, Turns
from penstock.conversation import Message, conversation
from penstock.errors import PenstockError
from penstock.events import EventEmitter, EventType, GlobalEventBus
from penstock.response import GenerateResponse
from penstock.streaming import AsyncChunkStream, ChunkStream, Reading
from penstock.structured import check_stream
from penstock.tools import definition_of

if TYPE_CHECKING:
    from pydantic import BaseModel

    from penstock.llm import LLM

_ModelT = TypeVar("_ModelT", bound="BaseModel")


class BasicSession:
    """A conversation with a model, in both flavours.

    What is asked and answered is added to ``messages`` once the answer is there: a call that
    fails leaves the history as it was. A stream that is broken off, or breaks, keeps what had
    arrived, with ``metadata["incomplete"]`` on that message. Calls on one session, from any
    threads and tasks, take turns in the order of asking; a stream has its turn until it ends, or
    is closed.

    Args:
        provider: the `LLM`; None for a session that is only read.
        system_prompt: instructions to the model, with every prompt.
        tools: functions that the model may ask to have called, with every prompt.
        timeout, temperature, seed: for calls that say nothing else. Default: the LLM's own.
        auto_compact: whether older messages are replaced by a summary once the history has more
            than ``auto_compact_threshold`` tokens (by estimate). The whole history stays where
            that fails.

    Example::

        session = BasicSession(create_llm("local", "tiny"), system_prompt="Be brief.")
        session.generate("My name is Ada.")
        print(session.generate("What is my name?").content)
        session.save("ada.json")
    """

    def __init__(
        self,
        provider: LLM | None = None,
        system_prompt: str | None = None,
        tools: Sequence[Any] | None = None,
        *,
        timeout: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        auto_compact: bool = False,
        auto_compact_threshold: int = archive.THRESHOLD,
        events: EventEmitter | None = None,
    ) -> None:
        self._start(provider, tools, events)
        said = {"timeout": timeout, "temperature": temperature, "seed": seed}
        self._be(
            archive.Archived(
                [Message("system", system_prompt)] if system_prompt else [],
                {},
                id=str(uuid.uuid4()),
                system_prompt=system_prompt,
                auto_compact=auto_compact,
                auto_compact_threshold=auto_compact_threshold,
                options={name: value for name, value in said.items() if value is not None},
            )
        )

    def _start(
        self, provider: LLM | None, tools: Sequence[Any] | None, events: EventEmitter | None
    ) -> None:
        self.provider = provider
        self.tools = [definition_of(tool) for tool in tools or ()]
        self._events = events
        self._turns = Turns()
        self._streaming: Reading | None = None
        self.archived: archive.Archived | None = None
        """What it was read from: what is not known here is saved again."""

    def _be(self, what: archive.Archived) -> None:
        self.id = what.id
        self.created_at = what.created_at
        self.system_prompt = what.system_prompt
        self.messages = what.messages
        self.auto_compact = what.auto_compact
        self.auto_compact_threshold = what.auto_compact_threshold
        self.summary: Any = what.about.get("summary")
        self.assessment: Any = what.about.get("assessment")
        self.facts: Any = what.about.get("facts")
        self.options = what.options
        """What calls say that say nothing else."""
        self.events.emit(EventType.SESSION_CREATED, {"session_id": self.id}, "session")

    def __repr__(self) -> str:
        return f"BasicSession({self.provider!r}, {len(self.messages)} messages)"

    @property
    def events(self) -> EventEmitter:
        """Where its events go: its own, or else the LLM's, or else the global bus."""
        return self._events or (self.provider.events if self.provider else GlobalEventBus.emitter)

    # What was said.

    def add_message(
        self,
        role: str,
        content: str,
        name: str | None = None,
        location: str | None = None,
        **metadata: Any,
    ) -> Message:
        """Add something that was said, as the last message.

        Example::

            session.add_message("user", "It rains.", name="Ada", location="Oslo")
        """
        message = said_by(role, content, name, location, metadata)
        self.messages.append(message)
        return message

    def get_messages(self) -> list[Message]:
        """What was said, oldest first: a copy of the list."""
        return list(self.messages)

    def get_history(self, include_system: bool = True) -> list[dict[str, Any]]:
        """What was said, as dicts with role and content."""
        return [
            {"role": message.role, "content": message.content}
            for message in self.messages
            if include_system or message.role != "system"
        ]

    def clear_history(self, keep_system: bool = True) -> None:
        """Forget what was said; the system prompt stays where ``keep_system``."""
        kept = [m for m in self.messages if m.role == "system"] if keep_system else []
        self.messages = kept
        self.events.emit(EventType.SESSION_CLEARED, {"session_id": self.id}, "session")

    def get_token_estimate(self) -> int:
        """How many tokens the history has, by a rule of thumb: a token to four letters."""
        return sum(len(message.content) // 4 + 4 for message in self.messages)

    # Going on with it.

    @overload
    def generate(
        self, prompt: str = ..., *, stream: Literal[True], **options: Any
    ) -> ChunkStream: ...
    @overload
    def generate(
        self, prompt: str = ..., *, response_model: type[_ModelT], **options: Any
    ) -> _ModelT: ...
    @overload
    def generate(
        self, prompt: str = ..., *, stream: Literal[False] = ..., **options: Any
    ) -> GenerateResponse: ...
    def generate(
        self,
        prompt: str = "",
        name: str | None = None,
        location: str | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> Any:
        """Say something, and have the model answer; both become part of the history.

        Args:
            prompt: what is said; "" to have the model answer to what was added, such as the
                results of tools.
            name, location: who says it, and where; kept with the message.
            stream: whether to return the answer in pieces.
            **options: as of `LLM.generate`. With ``response_model``, the instance is returned,
                and its JSON is what the history keeps.

        Raises:
            ValueError: the session has no provider.
            RuntimeError: this thread has a stream of the session half read, or would stop an
                event loop by waiting for its turn.
            PenstockError: the call failed; the history is what it was.

        Example::

            session.generate("And in French?").content
        """
        flavour = self._llm()._core.blocking
        return run(self._generate(flavour, prompt, name, location, stream, options))

    @overload
    async def agenerate(
        self, prompt: str = ..., *, stream: Literal[True], **options: Any
    ) -> AsyncChunkStream: ...
    @overload
    async def agenerate(
        self, prompt: str = ..., *, response_model: type[_ModelT], **options: Any
    ) -> _ModelT: ...
    @overload
    async def agenerate(
        self, prompt: str = ..., *, stream: Literal[False] = ..., **options: Any
    ) -> GenerateResponse: ...
    async def agenerate(
        self,
        prompt: str = "",
        name: str | None = None,
        location: str | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> Any:
        """`generate`'s twin. With ``stream``, await, then iterate."""
        flavour = self._llm()._core.asynchronous
        return await self._generate(flavour, prompt, name, location, stream, options)

    # Compacting.

    def should_compact(self, threshold: int | None = None) -> bool:
        """Whether the history has more tokens than that (by estimate)."""
        return self.get_token_estimate() > (threshold or self.auto_compact_threshold)

    def compact(
        self,
        preserve_recent: int = RECENT,
        focus: str | None = None,
        compact_provider: LLM | None = None,
        reason: str = "manual",
    ) -> Self:
        """Replace all but the last ``preserve_recent`` messages by a summary, in place.

        ``focus`` is what the summary should dwell on, ``compact_provider`` the model that
        writes it (default: the session's own). Where summarising fails, the failure is raised
        and the history is what it was. Returns the session.
        """
        llm = self._llm(compact_provider)
        run(self._compact_in_turn(llm._core.blocking, llm, preserve_recent, focus, reason))
        return self

    async def acompact(
        self,
        preserve_recent: int = RECENT,
        focus: str | None = None,
        compact_provider: LLM | None = None,
        reason: str = "manual",
    ) -> Self:
        """`compact`'s twin."""
        llm = self._llm(compact_provider)
        flavour = llm._core.asynchronous
        await self._compact_in_turn(flavour, llm, preserve_recent, focus, reason)
        return self

    def enable_auto_compact(self, threshold: int = archive.THRESHOLD) -> None:
        """Compact before a prompt whenever the history has more tokens than that."""
        self.auto_compact, self.auto_compact_threshold = True, threshold

    def disable_auto_compact(self) -> None:
        """Compact only when told."""
        self.auto_compact = False

    # Keeping.

    def to_dict(self) -> dict[str, Any]:
        """The session in the form ``session-archive/v1``; see `penstock.archive`."""
        return archive.to_dict(self)

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        provider: LLM | None = None,
        tools: Sequence[Any] | None = None,
    ) -> Self:
        """The reverse of `to_dict`. Raises `SessionError` where ``data`` is no such archive."""
        archived = archive.parse(data)
        session = cls.__new__(cls)
        session._start(provider, tools, None)
        session.archived = archived
        session._be(archived)
        return session

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write it to a file, whole or not at all."""
        archive.write(filepath, self.to_dict())

    async def asave(self, filepath: str | os.PathLike[str]) -> None:
        """`save`'s twin; the event loop goes on meanwhile."""
        await asyncio.to_thread(archive.write, filepath, self.to_dict())

    @classmethod
    def load(
        cls,
        filepath: str | os.PathLike[str],
        provider: LLM | None = None,
        tools: Sequence[Any] | None = None,
    ) -> Self:
        """A session from a file that `save`, or AbstractCore's, has written.

        Raises:
            SessionError: the file is damaged, or none of a session; it says why.
            OSError: it cannot be read.

        Example::

            session = BasicSession.load("ada.json", provider=llm)
        """
        return cls.from_dict(archive.read(filepath), provider, tools)

    @classmethod
    async def aload(
        cls,
        filepath: str | os.PathLike[str],
        provider: LLM | None = None,
        tools: Sequence[Any] | None = None,
    ) -> Self:
        """`load`'s twin."""
        return cls.from_dict(await asyncio.to_thread(archive.read, filepath), provider, tools)

    @classmethod
    def load_from_file(
        cls,
        file_path: str | os.PathLike[str],
        provider: LLM | None = None,
        tools: Sequence[Any] | None = None,
    ) -> Self:
        """`load` by another name."""
        return cls.load(file_path, provider, tools)

    @classmethod
    async def aload_from_file(
        cls,
        file_path: str | os.PathLike[str],
        provider: LLM | None = None,
        tools: Sequence[Any] | None = None,
    ) -> Self:
        """`aload` by another name."""
        return await cls.aload(file_path, provider, tools)

    # Written once for both flavours.

    def _llm(self, instead: LLM | None = None) -> LLM:
        llm = instead or self.provider
        if llm is None:
            raise ValueError("No provider configured")
        return llm

    async def _generate(
        self,
        flavour: Flavour,
        prompt: str,
        name: str | None,
        location: str | None,
        stream: bool,
        options: dict[str, Any],
    ) -> Any:
        check_stream(stream, options.get("response_model"))
        ticket = await self._turn(flavour)
        try:
            turn = await self._begin(flavour, prompt, name, location, options)
            if stream:
                return await self._stream(flavour, turn, ticket)
            response = await turn.answered(flavour)
        except BaseException:
            self._turns.done(ticket)
            raise
        self._turns.done(ticket)
        return response

    async def _turn(self, flavour: Flavour) -> Ticket:
        reading = self._streaming
        if reading is not None and reading.reader == flavour.me():
            raise RuntimeError(
                "a stream of this session is half read right here: read it to its end, or close "
                "it, before the next call, which would wait for it for ever"
            )
        return await flavour.turn(self._turns)

    async def _stream(self, flavour: Flavour, turn: Exchange, ticket: Ticket) -> Any:
        def keep(reading: Reading) -> None:
            self._streaming = None
            turn.streamed(reading)

        def release() -> None:
            self._turns.done(ticket)

        chunks = await turn.llm._core.stream(flavour, turn.question, keep, release)
        self._streaming = chunks._reading
        return chunks

    async def _begin(
        self,
        flavour: Flavour,
        prompt: str,
        name: str | None,
        location: str | None,
        options: dict[str, Any],
    ) -> Exchange:
        llm = self._llm()
        if self.auto_compact and self.should_compact():
            with suppress(PenstockError):  # told by an event; the whole history will do
                await compact(self, flavour, llm, RECENT, None, "auto")
        response_model = options.pop("response_model", None)
        attempts = options.pop("retry_strategy", None)
        media = options.pop("media", None)
        said = [said_by("user", prompt, name, location, {})] if prompt or media else []
        if media:  # the next turns see it, too
            [said[0].wire] = await flavour.work(conversation, prompt, None, list(media))
            said[0].wire.name = name or ""
        system = [m.content for m in self.messages if m.role == "system"]
        offered = options.pop("tools", None)
        question = llm._core.question(
            messages=[*(m for m in self.messages if m.role != "system"), *said],
            system_prompt=options.pop("system_prompt", None) or "\n\n".join(system) or None,
            tools=(self.tools or None) if offered is None else offered,
            about={"session_id": self.id},
            **{**self.options, **options},
        )
        question = Question(question.request, question.timeout, prompt, question.about)
        return Exchange(self, llm, question, said, response_model, attempts)

    async def _compact_in_turn(
        self, flavour: Flavour, llm: LLM, preserve_recent: int, focus: str | None, reason: str
    ) -> None:
        ticket = await self._turn(flavour)
        try:
            await compact(self, flavour, llm, preserve_recent, focus, reason)
        finally:
            self._turns.done(ticket)
