"""One prompt of a session and what is answered to it, on their way into the history.

Whose turn it is, and what goes along with the prompt, is ``session``'s to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock._core import Question
from penstock._flavours import Flavour
from penstock.conversation import Message
from penstock.response import GenerateResponse
from penstock.streaming import Reading
from penstock.structured import ATTEMPTS, attempts_of, generate_structured

if TYPE_CHECKING:
    from penstock.llm import LLM
    from penstock.session import BasicSession


@dataclass
class Exchange:
    """One prompt and its answer, on their way into the history."""

    session: BasicSession
    llm: LLM
    question: Question
    said: list[Message]
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
        self.session.messages += [*self.said, Message("assistant", instance.model_dump_json())]
        return instance

    def streamed(self, reading: Reading) -> None:
        """The stream has ended: keep what came of it."""
        if reading.answer is not None:
            self._keep(reading.answer)
        elif reading.content:
            why = "broken off" if reading.error is None else str(reading.error)
            metadata = {"incomplete": True, "error": why or type(reading.error).__name__}
            partial = Message("assistant", reading.content, metadata=metadata)
            self.session.messages += [*self.said, partial]

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
        self.session.messages += [*self.said, answer]


def said_by(
    role: str, content: str, name: str | None, location: str | None, metadata: Mapping[str, Any]
) -> Message:
    """A message with who said it and where; a user without a name is called "user"."""
    more = dict(metadata)
    if role == "user":
        more["name"] = name or "user"
    elif name is not None:
        more["name"] = name
    if location is not None:
        more["location"] = location
    return Message(role, content, metadata=more)
