"""The link between a gateway and a sidecar: each end alone, against a real server over a real wire.

What callers see of it stands in ``test_sidecar_provider``, whose tests run by links and without.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status
from penstock import v1
from penstock.errors import from_rpc_error
from penstock.link import v1 as link
from penstock_server.app import Server
from penstock_server.config import ServerConfig
from penstock_server.providers.link import LARGEST, Link

from tests.support.processes import until
from tests.support.scripted import WORDS, ScriptedProvider, serving

MANY = 2_000


def asked(model: str, prompt: str = "Hi") -> v1.GenerateRequest:
    return v1.GenerateRequest(model=f"test/{model}", prompt=prompt)


def begin(call: int, model: str, *, stream: bool = True, credit: int = 10_000) -> link.Begin:
    return link.Begin(call=call, request=asked(model), stream=stream, credit=credit)


class Wire:
    """One link, spoken by hand."""

    def __init__(self, stub: link.LinkServiceAsyncStub) -> None:
        self.stream: Any = stub.Link()
        self.frames: list[link.Frame] = []
        self.messages = 0
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.stream:
            self.messages += 1
            self.frames += message.frames

    async def say(self, **what: Any) -> None:
        await self.stream.write(link.LinkRequest(**what))

    def of(self, call: int) -> list[link.Frame]:
        return [frame for frame in self.frames if frame.call == call]

    async def ended(self, *calls: int) -> None:
        """Until each of them has an end."""
        ends = {"status", "response"}
        await until(
            lambda: all(
                any(frame.WhichOneof("content") in ends for frame in self.of(call))
                for call in calls
            )
        )


@asynccontextmanager
async def linked(**limits: Any) -> AsyncIterator[tuple[ScriptedProvider, Server, Wire]]:
    provider = ScriptedProvider()
    config = ServerConfig.model_validate(
        {"listen": ["127.0.0.1:0"], "shutdown": {"notice": 0, "drain": 5}, **limits}
    )
    async with serving(provider, config=config, linked=True) as (server, channel):
        wire = Wire(link.LinkServiceStub(channel))
        yield provider, server, wire
        wire.stream.cancel()
        await asyncio.gather(wire.reading, return_exceptions=True)


@asynccontextmanager
async def gateways_end() -> AsyncIterator[tuple[ScriptedProvider, Link]]:
    provider = ScriptedProvider()
    async with serving(provider, linked=True) as (_, channel):
        end = Link(link.LinkServiceStub(channel))
        yield provider, end
        await end.close()


def text(events: list[v1.StreamGenerateResponse]) -> str:
    return "".join(e.part_delta.text for e in events if e.HasField("part_delta"))


async def test_what_many_calls_tell_at_once_is_one_message(
    report: Callable[[str], None],
) -> None:
    count = 32
    async with linked() as (_, _, wire):
        await wire.say(begin=[begin(call, "echo") for call in range(1, count + 1)])
        await wire.ended(*range(1, count + 1))
        for call in range(1, count + 1):
            *events, end = wire.of(call)
            assert text([frame.event for frame in events]) == "".join(WORDS)
            assert events[-1].event.HasField("completed")
            assert (end.WhichOneof("content"), end.status.code) == ("status", 0)
        report(f"{count} calls: {len(wire.frames)} frames in {wire.messages} messages")
        assert wire.messages * 8 < len(wire.frames)


async def test_a_whole_answer_is_one_frame() -> None:
    async with linked() as (_, _, wire):
        await wire.say(begin=[begin(1, "echo", stream=False)])
        await wire.ended(1)
        (only,) = wire.frames
        assert only.response.message.parts[0].text == "".join(WORDS)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_has_all_that_a_call_of_its_own_would_have(stream: bool) -> None:
    async with linked() as (provider, _, wire):
        call = begin(1, "fail", stream=stream)
        call.metadata["x-request-id"] = "r-9"
        call.metadata["x-penstock-caller"] = "me"
        call.timeout.FromSeconds(60)
        await wire.say(begin=[call])
        await wire.ended(1)
        status = wire.of(1)[-1].status
        assert (provider.calls[0].request_id, provider.calls[0].caller) == ("r-9", "me")
        assert 50 < (provider.calls[0].remaining() or 0) <= 60
    trailers = grpc.aio.Metadata(
        (
            "grpc-status-details-bin",
            Status(code=status.code, details=status.details).SerializeToString(),
        )
    )
    error = from_rpc_error(
        grpc.aio.AioRpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), trailers, status.message
        )
    )
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert (error.reason, error.retry_delay) == ("PROVIDER_RATE_LIMITED", 1.5)
    assert error.request_id == "r-9"


async def test_a_call_tells_no_more_than_it_has_credit_for() -> None:
    async with linked() as (provider, _, wire):
        await wire.say(begin=[begin(1, "many", credit=5), begin(2, "echo")])

        def told(events: int) -> bool:
            return len(wire.of(1)) >= events

        await wire.ended(2)  # who does not read holds up nobody
        await until(partial(told, 5))
        for round_ in range(1, 4):
            await wire.say(begin=[begin(10 + round_, "echo")])
            await wire.ended(10 + round_)  # so that what was to come would have come
            assert len(wire.of(1)) == 5 * round_
            await wire.say(credit=[link.Credit(call=1, events=5)])
            await until(partial(told, 5 * (round_ + 1)))
        await wire.say(credit=[link.Credit(call=1, events=MANY)])
        await wire.ended(1)
        assert text([frame.event for frame in wire.of(1)]).split()[-1] == str(MANY - 1)
        assert provider.closed == 5


async def test_a_cancelled_call_ends_and_the_others_go_on() -> None:
    async with linked() as (provider, server, wire):
        await wire.say(begin=[begin(1, "slow")])
        await provider.begun.wait()
        await wire.say(cancel=[1, 77])
        await until(lambda: provider.closed == 1 and server.gate.running == 0)
        await wire.say(begin=[begin(2, "echo")])
        await wire.ended(2)
        assert not any(frame.HasField("status") for frame in wire.of(1))


async def test_a_call_that_takes_too_long_is_ended() -> None:
    async with linked() as (provider, _, wire):
        late = begin(1, "slow")
        late.timeout.FromMilliseconds(200)
        await wire.say(begin=[late])
        await wire.ended(1)
        assert wire.of(1)[-1].status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert provider.closed == 1


async def test_who_leaves_before_it_begins_leaves_nothing_behind() -> None:
    async with linked() as (_, server, wire):
        at_once = begin(2, "slow")
        at_once.timeout.FromNanoseconds(0)
        await wire.say(begin=[begin(1, "slow"), at_once], cancel=[1])
        await wire.ended(2)
        assert wire.of(2)[-1].status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        await wire.say(begin=[begin(1, "echo")])  # the number is free again
        await wire.ended(1)
        assert wire.of(1)[-1].status.code == 0
        assert server.gate.running == 0


@pytest.mark.parametrize("how", ["cancelled", "half-closed", "a number used twice"])
async def test_the_links_end_is_its_calls_end(how: str) -> None:
    async with linked() as (provider, server, wire):
        await wire.say(begin=[begin(1, "slow"), begin(2, "slow")])
        await until(lambda: len(provider.calls) == 2)
        if how == "cancelled":
            wire.stream.cancel()
        elif how == "half-closed":
            await wire.stream.done_writing()
        else:
            await wire.say(begin=[begin(1, "echo")])
        await until(lambda: provider.closed == 2 and server.gate.running == 0)
        code = await wire.stream.code()
        assert (code is grpc.StatusCode.OK) == (how == "half-closed")
        if how == "a number used twice":
            assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_server_that_stops_finishes_what_runs_and_refuses_the_rest() -> None:
    async with linked() as (provider, server, wire):
        await wire.say(begin=[begin(1, "slow")])
        await provider.begun.wait()
        stopping = asyncio.create_task(server.stop())
        code, number = 0, 1
        while code == 0:  # calls are still taken for a moment
            number += 1
            await wire.say(begin=[begin(number, "echo")])
            await wire.ended(number)
            code = wire.of(number)[-1].status.code
        provider.resume.set()
        await wire.ended(1)
        await stopping
        assert code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert text([frame.event for frame in wire.of(1)]) == "".join(WORDS)
        assert await wire.stream.code() is grpc.StatusCode.OK


async def test_a_servers_limit_holds_for_what_comes_by_a_link() -> None:
    async with linked(limits={"max_message_bytes": 2_000}) as (_, _, wire):
        large = link.Begin(call=1, request=asked("echo", "x" * 3_000), stream=True, credit=9)
        await wire.say(begin=[large, begin(2, "echo")])
        await wire.ended(1, 2)
        (refused,) = wire.of(1)
        assert "at most 2,000" in str(refused.status) or "2,000" in refused.status.message
        assert wire.of(2)[-1].status.code == 0


async def test_a_plain_server_has_no_link() -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        stream = link.LinkServiceStub(channel).Link()
        assert await stream.code() is grpc.StatusCode.UNIMPLEMENTED


# The gateway's end.


def stream_of(end: Link, model: str, prompt: str = "Hi") -> Any:
    request = v1.StreamGenerateRequest(request=asked(model, prompt))
    return end.StreamGenerate(request, timeout=30, metadata=())


async def test_each_call_gets_its_own() -> None:
    async with gateways_end() as (provider, end):
        prompts = [f"{n} " + "x" * (LARGEST // 3) for n in range(12)]  # more than one message

        async def one(prompt: str) -> tuple[str, str]:
            events = [event async for event in stream_of(end, "echo", prompt)]
            whole = await end.Generate(asked("echo", prompt), timeout=None, metadata=())
            return text(events), whole.message.parts[0].text

        answers = await asyncio.gather(*(one(prompt) for prompt in prompts))
        assert set(answers) == {("".join(WORDS), "".join(WORDS))}
        assert len(provider.calls) == 24


async def test_who_does_not_read_is_held_a_bounded_number_of_events() -> None:
    async with gateways_end() as (provider, end):
        slow = stream_of(end, "many")
        first = await anext(slow)
        assert first.HasField("started")
        for _ in range(5):
            assert len([event async for event in stream_of(end, "echo")]) == 7
        held = len(slow._arrived)
        assert held <= 64
        assert provider.closed == 5
        rest = [event async for event in slow]
        assert text(rest).split() == [str(n) for n in range(MANY)]


async def test_a_link_that_breaks_fails_its_calls_and_the_next_one_opens_another() -> None:
    async with gateways_end() as (provider, end):
        calls = [stream_of(end, "slow") for _ in range(3)]
        for call in calls:
            assert (await anext(call)).HasField("started")
        whole = asyncio.create_task(end.Generate(asked("slow"), timeout=None, metadata=()))
        await until(lambda: len(provider.calls) == 4)
        wire = end._wire
        assert wire is not None
        wire._stream.cancel()

        async def drained(call: Any) -> None:
            async for _ in call:
                pass

        failures = await asyncio.gather(*map(drained, calls), whole, return_exceptions=True)
        assert [type(failure) for failure in failures] == [grpc.aio.AioRpcError] * 4
        assert len({id(failure) for failure in failures}) == 4
        await until(lambda: provider.closed == 4)
        assert len([event async for event in stream_of(end, "echo")]) == 7


@pytest.mark.parametrize("before", [True, False])
async def test_leaving_reaches_the_sidecar(before: bool) -> None:
    async with gateways_end() as (provider, end):
        call = stream_of(end, "slow")
        if not before:
            await provider.begun.wait()
        call.cancel()
        call.cancel()
        assert [event async for event in call] == []
        other = [event async for event in stream_of(end, "echo")]
        await until(lambda: provider.closed == len(provider.calls))
        assert len(other) == 7


async def test_where_nobody_answers_calls_fail_as_such() -> None:
    channel = grpc.aio.insecure_channel("unix:/nonexistent/socket")
    end = Link(link.LinkServiceStub(channel))
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await end.Generate(asked("echo"), timeout=None, metadata=())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await end.close()
    await channel.close()


async def test_bytes_that_are_no_message_end_their_link_only() -> None:
    async with linked() as (_, server, wire):
        async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
            raw: Any = channel.stream_stream("/penstock.link.v1.LinkService/Link")()
            await raw.write(b"\xff" * 50)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await wire.say(begin=[begin(1, "echo")])
        await wire.ended(1)
