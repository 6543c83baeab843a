"""Very many calls at a time, through a real gateway process: none waits for another, none is lost.

A design with a thread for each call takes minutes for the first of these tests on two cores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from penstock import v1

from tests.providers.upstream import (
    Received,
    Script,
    Upstream,
    as_json,
    as_stream,
    chunks,
    completion,
    serving,
    sse,
)
from tests.support.processes import ServerProcess, gateway

TOKENS = 20


def asked(received: Received) -> str:
    return str(received.json["messages"][-1]["content"])


def late(received: Received) -> Script:
    """The question, a second later."""
    answer = as_json(completion({"content": f"You said {asked(received)}."}))
    return Script([1.0, *answer.body], 200, answer.headers)


def tokens(received: Received) -> Script:
    """Tokens that name the question, one after the other."""
    said = [{"content": f"{asked(received)}:{number} "} for number in range(TOKENS)]
    pieces: list[bytes | float] = []
    for event in chunks(said):
        pieces += [sse(event, done=False), 0.02]
    return as_stream(*pieces, b"data: [DONE]\n\n")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as running:
        yield running


@pytest.fixture
def server(upstream: Upstream) -> ServerProcess:
    values = ["kind=openai-compatible", f"base_url={upstream.url}"]
    flags = [flag for value in values for flag in ("--set", f"providers.up.{value}")]
    return gateway(*flags)


async def test_a_thousand_calls_take_as_long_as_one(
    upstream: Upstream, server: ServerProcess, report: Callable[[str], None]
) -> None:
    upstream.otherwise = late
    with server:
        await asyncio.to_thread(server.ready)
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = v1.GenerationServiceStub(channel)

            async def ask(number: int) -> str:
                request = v1.GenerateRequest(model="up/m", prompt=f"number {number}")
                return (await stub.Generate(request, timeout=60)).message.parts[0].text

            await ask(-1)
            started = time.monotonic()
            answers = await asyncio.gather(*(ask(number) for number in range(1000)))
            took = time.monotonic() - started
    assert answers == [f"You said number {number}." for number in range(1000)]
    report(f"1,000 calls that take 1.0 s each: {took:.2f} s")
    # One after the other they would take 1,000 s, in 40 threads 25 s.
    assert took < 15


async def test_five_hundred_streams_are_not_mixed_up(
    upstream: Upstream, server: ServerProcess, report: Callable[[str], None]
) -> None:
    upstream.otherwise = tokens
    with server:
        await asyncio.to_thread(server.ready)
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = v1.GenerationServiceStub(channel)

            async def ask(number: int) -> tuple[str, str]:
                request = v1.GenerateRequest(model="up/m", prompt=f"stream{number}")
                heard, whole = [], ""
                call = stub.StreamGenerate(v1.StreamGenerateRequest(request=request), timeout=60)
                async for event in call:
                    heard.append(event.part_delta.text)
                    if event.HasField("completed"):
                        whole = event.completed.message.parts[0].text
                return "".join(heard), whole

            started = time.monotonic()
            answers = await asyncio.gather(*(ask(number) for number in range(500)))
            took = time.monotonic() - started
    for number, (heard, whole) in enumerate(answers):
        assert heard == whole == "".join(f"stream{number}:{n} " for n in range(TOKENS))
    report(f"500 streams of {TOKENS} tokens, 20 ms apart: {took:.2f} s, all tokens in place")
