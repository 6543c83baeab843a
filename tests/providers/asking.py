"""Asking a provider, and looking at what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.providers import Call, Provider

CALL = Call("request-1")


def question(prompt: str = "Hi", **fields: object) -> v1.GenerateRequest:
    return v1.GenerateRequest(model="up/m", prompt=prompt, **fields)  # type: ignore[arg-type]


async def streamed(
    provider: Provider, request: v1.GenerateRequest | None = None, model: str = "m"
) -> list[v1.StreamGenerateResponse]:
    """All events of an answer."""
    async with aclosing(provider.stream(model, request or question(), CALL)) as events:
        return [event async for event in events]


async def streamed_until_failure(
    provider: Provider, request: v1.GenerateRequest | None = None
) -> tuple[list[v1.StreamGenerateResponse], Failure]:
    """The events that came before the failure, and the failure."""
    seen: list[v1.StreamGenerateResponse] = []
    with pytest.raises(Failure) as caught:
        async with aclosing(provider.stream("m", request or question(), CALL)) as events:
            async for event in events:
                seen.append(event)
    assert "completed" not in kinds(seen)
    return seen, caught.value


async def failed(provider: Provider, request: v1.GenerateRequest | None = None) -> Failure:
    """The failure of a whole answer."""
    with pytest.raises(Failure) as caught:
        await provider.generate("m", request or question(), CALL)
    return caught.value


def kinds(events: Sequence[v1.StreamGenerateResponse]) -> list[str]:
    return [event.WhichOneof("event") or "" for event in events]


def deltas(events: Sequence[v1.StreamGenerateResponse]) -> list[v1.PartDelta]:
    return [event.part_delta for event in events if event.HasField("part_delta")]


def completed(events: Sequence[v1.StreamGenerateResponse]) -> v1.GenerateResponse:
    assert kinds(events)[-1] == "completed"
    return events[-1].completed


def folded(events: Sequence[v1.StreamGenerateResponse]) -> v1.Message:
    """The message as a client would put it together from the deltas alone."""
    message = v1.Message(role=v1.ROLE_ASSISTANT)
    for event in events:
        if event.HasField("part_started"):
            assert event.part_started.index == len(message.parts)
            message.parts.append(event.part_started.part)
        elif event.HasField("part_delta"):
            delta = event.part_delta
            part = message.parts[delta.index]
            match delta.WhichOneof("delta"):
                case "text":
                    part.text += delta.text
                case "refusal":
                    part.refusal += delta.refusal
                case "thinking":
                    part.thinking.text += delta.thinking
                case "tool_call_arguments":
                    part.tool_call.arguments += delta.tool_call_arguments
    return message


def timeless(response: v1.GenerateResponse) -> v1.GenerateResponse:
    """The answer without what differs from one asking to the next."""
    copy = v1.GenerateResponse()
    copy.CopyFrom(response)
    copy.ClearField("timings")
    return copy
