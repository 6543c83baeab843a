"""Replacing the older part of a session by a summary, with nothing lost where that fails.

When that is done, and whose turn it is, is ``session``'s to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock._flavours import Flavour
from penstock.conversation import Message
from penstock.errors import ProviderAPIError
from penstock.events import EventType

if TYPE_CHECKING:
    from penstock.llm import LLM
    from penstock.session import BasicSession

RECENT = 6
"""How many messages stay as they are, where nobody says otherwise."""

_SUMMARISE = (
    "Summarise the conversation below for the one who will go on with it. Keep names, numbers, "
    "decisions, open questions and what was promised. Write the summary only."
)


async def compact(
    session: BasicSession,
    flavour: Flavour,
    llm: LLM,
    preserve_recent: int,
    focus: str | None,
    reason: str,
) -> None:
    """Have ``llm`` summarise all but the last messages; see `BasicSession.compact`."""
    rest = [m for m in session.messages if m.role != "system" or m.metadata.get("summary")]
    older = rest[: _border(rest, max(0, preserve_recent))]
    if not older:
        return
    about = {"session_id": session.id, "reason": reason, "messages": len(older)}
    await flavour.emit(session.events, EventType.COMPACTION_STARTED, about, "session")
    try:
        text = await _summarised(session, flavour, llm, older, focus)
    except BaseException as error:
        failed = {**about, "success": False, "error": str(error) or type(error).__name__}
        session.events.emit(EventType.COMPACTION_COMPLETED, failed, "session")
        raise
    summary = Message(
        "system",
        f"Summary of what was said before:\n{text}",
        metadata={"summary": True, "messages": len(older)},
    )
    # What was added meanwhile stays, and what was cleared does not come back.
    replaced = {id(message) for message in older}
    now = session.messages
    place = next((i for i, m in enumerate(now) if id(m) in replaced), None)
    if place is not None:
        kept = [m for m in now[place:] if id(m) not in replaced]
        session.messages = [*now[:place], summary, *kept]
    done = {**about, "success": True, "tokens": session.get_token_estimate()}
    await flavour.emit(session.events, EventType.COMPACTION_COMPLETED, done, "session")


async def _summarised(
    session: BasicSession,
    flavour: Flavour,
    llm: LLM,
    older: Sequence[Message],
    focus: str | None,
) -> str:
    question = llm._core.question(
        "\n\n".join(map(_told, older)),
        system_prompt=f"{_SUMMARISE} Dwell on: {focus}." if focus else _SUMMARISE,
        tools=[],
        about={"session_id": session.id},
        **session.options,
    )
    response = await llm._core.generate(flavour, question)
    text = (response.content or "").strip()
    if not text or response.output_truncated:
        what = "cut the summary off" if text else "wrote no summary"
        raise ProviderAPIError(f"the model {what}; the history is kept as it was")
    return text


def _told(message: Message) -> str:
    """A message as the one who summarises reads it."""
    calls = [f"[calls {call}]" for call in message.metadata.get("tool_calls") or ()]
    return "\n".join([f"{message.name or message.role}: {message.content}", *calls])


def _border(messages: Sequence[Message], recent: int) -> int:
    """Where the older ones end: a tool's result stays with the call that it answers."""
    border = max(0, len(messages) - recent)
    while border < len(messages) and messages[border].role == "tool":
        border -= 1
        if border <= 0:
            return 0
    return border
