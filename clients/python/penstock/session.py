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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from penstock import archive
from penstock._core import Question
from penstock._flavours import Flavour, run
from penstock._turns import Turns
from penstock.conversation import Message, conversation
from penstock.errors import PenstockError, ProviderAPIError
from penstock.events import EventEmitter, EventType, GlobalEventBus
from penstock.response import GenerateResponse
from penstock.streaming import AsyncChunkStream, ChunkStream, Reading
from penstock.structured import ATTEMPTS, attempts_of, generate_structured
from penstock.tools import definition_of

if TYPE_CHECKING:
    from penstock.llm import LLM

_SUMMARISE = (
    "Summarise the conversation below for the one who will go on with it. Keep names, numbers, "
    "decisions, open questions and what was promised. Write the summary only."
)


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
        auto_compact_threshold: int = 6000,
        events: EventEmitter | None = None,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.created_at = datetime.now(UTC)
        self.provider = provider
        self.system_prompt = system_prompt
        self.tools = [definition_of(tool) for tool in tools or ()]
        self.messages: list[Message] = []
        self.auto_compact = auto_compact
        self.auto_compact_threshold = auto_compact_threshold
        self.summary: Any = None
        self.assessment: Any = None
        self.facts: Any = None
        self.extra: dict[str, Any] = {}
        """What an archive held that is not known here; it is saved again."""
        said = {"timeout": timeout, "temperature": temperature, "seed": seed}
        self.options = {name: value for name, value in said.items() if value is not None}
        """What calls say that say nothing else."""
        self._events = events
        self._turns = Turns()
        if system_prompt:
            self.messages.append(Message("system", system_prompt))
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
        message = _message(role, content, name, location, metadata)
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
    def generate(self, prompt: str, *, stream: Literal[True], **options: Any) -> ChunkStream: ...
    @overload
    def generate(
        self, prompt: str, *, stream: Literal[False] = ..., **options: Any
    ) -> GenerateResponse: ...
    def generate(
        self,
        prompt: str,
        name: str | None = None,
        location: str | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> Any:
        """Say something, and have the model answer; both become part of the history.

        Args:
            prompt: what is said.
            name, location: who says it, and where; kept with the message.
            stream: whether to return the answer in pieces.
            **options: as of `LLM.generate`. With ``response_model``, the instance is returned,
                and its JSON is what the history keeps.

        Raises:
            ValueError: the session has no provider.
            PenstockError: the call failed; the history is what it was.

        Example::

            session.generate("And in French?").content
        """
        llm = self._llm()
        self._turns.wait()
        try:
            turn = run(self._begin(llm._core.blocking, prompt, name, location, options))
            if stream:
                question = run(llm._core.open(llm._core.blocking, turn.question))
                return llm._core.stream(question, turn.streamed)
            response = run(turn.answered(llm._core.blocking))
        except BaseException:
            self._turns.done()
            raise
        self._turns.done()
        return response

    @overload
    async def agenerate(
        self, prompt: str, *, stream: Literal[True], **options: Any
    ) -> AsyncChunkStream: ...
    @overload
    async def agenerate(
        self, prompt: str, *, stream: Literal[False] = ..., **options: Any
    ) -> GenerateResponse: ...
    async def agenerate(
        self,
        prompt: str,
        name: str | None = None,
        location: str | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> Any:
        """`generate`'s twin. With ``stream``, await, then iterate."""
        llm = self._llm()
        await self._turns.await_turn()
        try:
            flavour = llm._core.asynchronous
            turn = await self._begin(flavour, prompt, name, location, options)
            if stream:
                question = await llm._core.open(flavour, turn.question)
                return llm._core.astream(question, turn.streamed)
            response = await turn.answered(flavour)
        except BaseException:
            self._turns.done()
            raise
        self._turns.done()
        return response

    # Compacting.

    def should_compact(self, threshold: int | None = None) -> bool:
        """Whether the history has more tokens than that (by estimate)."""
        return self.get_token_estimate() > (threshold or self.auto_compact_threshold)

    def compact(
        self,
        preserve_recent: int = 6,
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
        self._turns.wait()
        try:
            run(self._compact(llm._core.blocking, llm, preserve_recent, focus, reason))
        finally:
            self._turns.done()
        return self

    async def acompact(
        self,
        preserve_recent: int = 6,
        focus: str | None = None,
        compact_provider: LLM | None = None,
        reason: str = "manual",
    ) -> Self:
        """`compact`'s twin."""
        llm = self._llm(compact_provider)
        await self._turns.await_turn()
        try:
            await self._compact(llm._core.asynchronous, llm, preserve_recent, focus, reason)
        finally:
            self._turns.done()
        return self

    def enable_auto_compact(self, threshold: int = 6000) -> None:
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
        session = cls(provider, tools=tools)
        archive.fill(session, data)
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

    load_from_file = load
    aload_from_file = aload

    # Written once for both flavours.

    def _llm(self, instead: LLM | None = None) -> LLM:
        llm = instead or self.provider
        if llm is None:
            raise ValueError("No provider configured")
        return llm

    async def _begin(
        self,
        flavour: Flavour,
        prompt: str,
        name: str | None,
        location: str | None,
        options: dict[str, Any],
    ) -> _Turn:
        llm = self._llm()
        if self.auto_compact and self.should_compact():
            await self._try_to_compact(flavour, llm)
        said = _message("user", prompt, name, location, {})
        response_model = options.pop("response_model", None)
        attempts = options.pop("retry_strategy", None)
        system = [m.content for m in self.messages if m.role == "system"]
        media = options.pop("media", None)
        if media:
            [said.wire] = conversation(prompt, None, media)  # the next turns see it, too
        question = llm._core.question(
            "",
            [*(m for m in self.messages if m.role != "system"), said],
            options.pop("system_prompt", None) or "\n\n".join(system) or None,
            options.pop("tools", None) or self.tools or None,
            labels={"session_id": self.id},
            **{**self.options, **options},
        )
        question = Question(question.request, question.timeout, prompt, question.labels)
        return _Turn(self, llm, question, said, response_model, attempts)

    async def _try_to_compact(self, flavour: Flavour, llm: LLM) -> None:
        with suppress(PenstockError):  # told by COMPACTION_COMPLETED; the whole history will do
            await self._compact(flavour, llm, 6, None, "auto")

    async def _compact(
        self, flavour: Flavour, llm: LLM, preserve_recent: int, focus: str | None, reason: str
    ) -> None:
        system = [m for m in self.messages if m.role == "system" and not m.metadata.get("summary")]
        rest = [m for m in self.messages if m not in system]
        border = _border(rest, max(0, preserve_recent))
        older, recent = rest[:border], rest[border:]
        if not older:
            return
        about = {"session_id": self.id, "reason": reason, "messages": len(older)}
        await flavour.emit(self.events, EventType.COMPACTION_STARTED, about, "session")
        text = "\n\n".join(f"{m.role}: {m.content}" for m in older)
        instruction = f"{_SUMMARISE} Dwell on: {focus}." if focus else _SUMMARISE
        question = llm._core.question(text, system_prompt=instruction)
        try:
            response = await llm._core.generate(flavour, question)
            if not (response.content or "").strip():
                raise ProviderAPIError("the model wrote an empty summary; the history is kept")
        except BaseException as error:
            self.events.emit(
                EventType.COMPACTION_COMPLETED,
                {**about, "success": False, "error": str(error) or type(error).__name__},
                "session",
            )
            raise
        summary = Message(
            "system",
            f"Summary of what was said before:\n{response.content}",
            metadata={"summary": True, "messages": len(older)},
        )
        self.messages = [*system, summary, *recent]
        await flavour.emit(
            self.events,
            EventType.COMPACTION_COMPLETED,
            {**about, "success": True, "tokens": self.get_token_estimate()},
            "session",
        )


@dataclass
class _Turn:
    """One prompt and its answer, on their way into the history."""

    session: BasicSession
    llm: LLM
    question: Question
    said: Message
    response_model: Any = None
    attempts: Any = None

    async def answered(self, flavour: Flavour) -> Any:
        """Ask; what comes is added to the history."""
        core = self.llm._core
        if self.response_model is None:
            response = await core.generate(flavour, self.question)
            self._keep(response)
            return response
        attempts = ATTEMPTS if self.attempts is None else attempts_of(self.attempts)
        instance = await generate_structured(
            core, flavour, self.question, self.response_model, attempts
        )
        self.session.messages += [self.said, Message("assistant", instance.model_dump_json())]
        return instance

    def streamed(self, reading: Reading) -> None:
        """The stream has ended: keep what came of it."""
        try:
            if reading.answer is not None:
                self._keep(reading.answer)
            elif reading.content:
                why = "broken off" if reading.error is None else str(reading.error)
                metadata = {"incomplete": True, "error": why or type(reading.error).__name__}
                partial = Message("assistant", reading.content, metadata=metadata)
                self.session.messages += [self.said, partial]
        finally:
            self.session._turns.done()

    def _keep(self, response: GenerateResponse) -> None:
        metadata: dict[str, Any] = {}
        if response.tool_calls:
            metadata["tool_calls"] = response.tool_calls
        answer = Message(
            "assistant",
            response.content or "",
            metadata=metadata,
            wire=response.raw_response.message,
        )
        self.session.messages += [self.said, answer]


def _message(
    role: str, content: str, name: str | None, location: str | None, metadata: Mapping[str, Any]
) -> Message:
    more = dict(metadata)
    if role == "user":
        more["name"] = name or "user"
    elif name is not None:
        more["name"] = name
    if location is not None:
        more["location"] = location
    return Message(role, content, metadata=more)


def _border(messages: Sequence[Message], recent: int) -> int:
    """Where the older ones end: a tool's result stays with the call that it answers."""
    border = max(0, len(messages) - recent)
    while border < len(messages) and messages[border].role == "tool":
        border -= 1
        if border <= 0:
            return 0
    return border
