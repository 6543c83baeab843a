"""What is tried again, when, and how often; over real HTTP and real gRPC."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import grpc
import pytest
from penstock import v1
from penstock.errors import PenstockError, from_rpc_error
from penstock_server.errors import Failure
from penstock_server.providers import Call, Events
from penstock_server.providers.openai.chat_provider import ChatProvider, bearer
from penstock_server.retry import NEVER, PASSING, RetryPolicy

from tests.providers.upstream import (
    Script,
    Upstream,
    as_json,
    as_stream,
    chunks,
    completion,
    serving,
    sse,
)
from tests.support import scripted

QUICK = RetryPolicy(attempts=3, first_pause=0.02, max_pause=0.05)
BUSY = as_json({"error": {"message": "busy"}}, 503)
ASK = v1.GenerateRequest(model="up/m", prompt="Hi")


def limited(**headers: str) -> Script:
    return as_json({"error": {"message": "slow down"}}, 429, **headers)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as running:
        yield running


class Path:
    """Upstream, provider, server and stub; retries as ``policy`` says."""

    def __init__(self, upstream: Upstream, policy: RetryPolicy = QUICK) -> None:
        self.provider = ChatProvider("up", bearer("up", upstream.url))
        self.provider.retry = policy
        self._serving = scripted.serving(self.provider)

    async def __aenter__(self) -> Any:
        self.server, _ = await self._serving.__aenter__()
        # The client's own retries would hide how often the gateway tries.
        options = [("grpc.enable_retries", 0)]
        self._channel = grpc.aio.insecure_channel(self.server.addresses[0], options=options)
        return v1.GenerationServiceStub(self._channel)

    async def disconnect(self) -> None:
        await self._channel.close(None)

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()
        await self._serving.__aexit__(None, None, None)


async def ask(stub: Any, how: str, timeout: float = 20) -> str:
    """The text of an answer; raises PenstockError."""
    try:
        if how == "unary":
            return str((await stub.Generate(ASK, timeout=timeout)).message.parts[0].text)
        request = v1.StreamGenerateRequest(request=ASK)
        events = [event async for event in stub.StreamGenerate(request, timeout=timeout)]
        return str(events[-1].completed.message.parts[0].text)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def good(how: str) -> Script:
    if how == "unary":
        return as_json(completion({"content": "Hello."}))
    return as_stream(sse(*chunks([{"content": "Hello."}])))


both = pytest.mark.parametrize("how", ["unary", "stream"])


@both
@pytest.mark.parametrize(
    "bad",
    [
        BUSY,
        as_json({"error": "x"}, 500),
        as_json({"error": "x"}, 504),
        as_json({"type": "error", "error": {"type": "overloaded_error"}}, 529),
        limited(),
        limited(retry_after="0"),
        Script(raw=b""),  # the connection is closed without a word
        as_json({"error": {"message": "once more"}}, 409, x_should_retry="true"),
    ],
    ids=["503", "500", "504", "529", "429", "429 at once", "cut", "asked to"],
)
async def test_failures_of_a_moment_are_tried_again(
    upstream: Upstream, how: str, bad: Script
) -> None:
    async with Path(upstream) as stub:
        for script in (bad, bad, good(how)):
            upstream.will(script)
        assert await ask(stub, how) == "Hello."
    assert len(upstream.received) == 3


@both
@pytest.mark.parametrize(
    "bad",
    [
        as_json({"error": {"message": "no"}}, 400),
        as_json({"error": {"message": "no"}}, 401),
        as_json({"error": {"message": "no", "code": "insufficient_quota"}}, 429),
        as_json({"error": {"message": "not this one"}}, 501),
        as_json({"error": {"message": "no use"}}, 503, x_should_retry="false"),
        Script([b"nonsense"]),
        limited(retry_after="3600"),
    ],
    ids=["400", "401", "quota", "501", "told not to", "nonsense", "an hour"],
)
async def test_other_failures_are_not(upstream: Upstream, how: str, bad: Script) -> None:
    async with Path(upstream) as stub:
        upstream.will(bad)
        with pytest.raises(PenstockError):
            await ask(stub, how)
    assert len(upstream.received) == 1


@both
async def test_the_last_failure_is_told_with_the_number_of_attempts(
    upstream: Upstream, how: str
) -> None:
    upstream.otherwise = BUSY
    async with Path(upstream) as stub:
        with pytest.raises(PenstockError) as caught:
            await ask(stub, how)
    assert caught.value.reason == "PROVIDER_UNAVAILABLE"
    assert caught.value.metadata["attempts"] == "3"
    assert len(upstream.received) == 3


@pytest.mark.parametrize("attempts", [3, 1])
async def test_retries_do_not_stack(attempts: int, upstream: Upstream) -> None:
    """gRPC's own retries, which the Python client switches on, leave it at that."""
    import penstock

    upstream.otherwise = BUSY
    provider = ChatProvider("up", bearer("up", upstream.url))
    provider.retry = replace(QUICK, attempts=attempts)
    async with (
        scripted.serving(provider) as (server, _),
        penstock.aio.Client(server.addresses[0]) as client,
    ):
        with pytest.raises(PenstockError):
            await client.generate("Hi", model="up/m")
    assert len(upstream.received) == attempts


async def test_a_stream_that_has_begun_is_never_begun_again(upstream: Upstream) -> None:
    opening = sse(*chunks([{"content": "Hel"}], finish=None), done=False)
    async with Path(upstream) as stub:
        upstream.will(as_stream(opening, ending="cut"))
        with pytest.raises(PenstockError) as caught:
            await ask(stub, "stream")
    assert caught.value.reason == "PROVIDER_UNAVAILABLE"
    assert len(upstream.received) == 1


async def test_a_stream_that_broke_before_it_began_is_tried_again(upstream: Upstream) -> None:
    comment = Script([b": hello\n\n"], 200, {"content-type": "text/event-stream"}, ending="cut")
    overloaded = as_stream(b'event: error\ndata: {"error": {"type": "overloaded_error"}}\n\n')
    async with Path(upstream) as stub:
        for script in (comment, overloaded, good("stream")):
            upstream.will(script)
        assert await ask(stub, "stream") == "Hello."
    assert len(upstream.received) == 3


@both
@pytest.mark.parametrize(
    ("headers", "least"),
    [({"retry_after": "1"}, 1.0), ({"retry_after_ms": "300"}, 0.3), ("date", 1.0)],
    ids=["seconds", "milliseconds", "date"],
)
async def test_who_says_when_to_come_back_is_heard(
    upstream: Upstream, how: str, headers: dict[str, str] | str, least: float
) -> None:
    if isinstance(headers, str):
        now = time.time()
        headers = {"date": formatdate(now, usegmt=True),
                   "retry_after": formatdate(now + 1, usegmt=True)}  # fmt: skip
    async with Path(upstream) as stub:
        upstream.will(limited(**headers))
        upstream.will(good(how))
        started = time.monotonic()
        assert await ask(stub, how) == "Hello."
    assert least <= time.monotonic() - started < least + 0.5


@both
async def test_who_cannot_be_answered_in_time_is_told_at_once(upstream: Upstream, how: str) -> None:
    """With when to come back, which a DEADLINE_EXCEEDED after the wait would not say."""
    async with Path(upstream) as stub:
        upstream.will(limited(retry_after="5"))
        started = time.monotonic()
        with pytest.raises(PenstockError) as caught:
            await ask(stub, how, timeout=3)
    assert time.monotonic() - started < 1
    assert caught.value.reason == "PROVIDER_RATE_LIMITED"
    assert caught.value.retry_delay == 5


@both
@pytest.mark.parametrize("leave", ["cancel", "disconnect"])
async def test_nobody_is_asked_again_for_a_caller_who_went_in_the_pause(
    upstream: Upstream, how: str, leave: str
) -> None:
    """(A deadline that would pass in a pause ends the call before it: see above.)"""
    path = Path(upstream, RetryPolicy(attempts=3, first_pause=0.4))
    async with path as stub:
        upstream.otherwise = BUSY
        call: grpc.aio.Call = (
            stub.Generate(ASK)
            if how == "unary"
            else stub.StreamGenerate(v1.StreamGenerateRequest(request=ASK))
        )
        await upstream.asked()
        if leave == "cancel":
            call.cancel()
        else:
            await path.disconnect()
        assert await path.server.gate.drained(0.15), "the call goes on without a caller"
        await asyncio.wait([asyncio.ensure_future(call.code())], timeout=0.6)
    assert len(upstream.received) == 1


def test_pauses_grow_and_are_all_different() -> None:
    policy = RetryPolicy(attempts=9, first_pause=1.0, max_pause=5.0)
    failure = Failure(v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "busy")
    for attempt, longest in zip(itertools.count(1), (1.0, 2.0, 4.0, 5.0, 5.0), strict=False):
        pauses = [policy.pause(attempt, failure, None) or 0.0 for _ in range(200)]
        assert longest / 2 <= min(pauses) < longest * 0.6
        assert longest * 0.9 < max(pauses) <= longest
    assert policy.pause(9, failure, None) is None


@pytest.mark.parametrize("reason", v1.ErrorReason.values())
def test_only_what_can_pass(reason: v1.ErrorReason.ValueType) -> None:
    failure = Failure(reason, "")
    assert (QUICK.pause(1, failure, None) is not None) == (reason in PASSING)
    assert NEVER.pause(1, failure, None) is None


async def test_the_deadline_counts_for_what_is_left(upstream: Upstream) -> None:
    """Attempts and pauses together stay within it."""
    upstream.otherwise = BUSY
    endless = RetryPolicy(attempts=1000, first_pause=0.1, max_pause=0.1)
    async with Path(upstream, endless) as stub:
        started = time.monotonic()
        with pytest.raises(PenstockError) as caught:
            await ask(stub, "unary", timeout=1.0)
    assert time.monotonic() - started < 1.2
    assert caught.value.reason in ("PROVIDER_UNAVAILABLE", "")
    assert len(upstream.received) > 3


async def test_a_bug_is_not_tried_again() -> None:
    class Buggy(scripted.ScriptedProvider):
        asked = 0

        async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
            self.asked += 1
            if self.asked:
                raise ZeroDivisionError
            yield v1.StreamGenerateResponse()

    provider = Buggy()
    provider.retry = QUICK
    async with scripted.serving(provider) as (_, channel):
        request = v1.StreamGenerateRequest(request=v1.GenerateRequest(model="test/m", prompt="x"))
        with pytest.raises(grpc.aio.AioRpcError):
            async for _ in v1.GenerationServiceStub(channel).StreamGenerate(request):
                pass
    assert provider.asked == 1
