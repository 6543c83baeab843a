"""Limits on the wire: of callers, of providers and of routes; what is refused, and what is not."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import grpc
import pytest
from penstock import v1
from penstock.errors import PenstockError, RateLimitError, from_rpc_error
from penstock_server.access_settings import AuthSettings, PolicySettings
from penstock_server.identity import Door
from penstock_server.limit_settings import CallLimits
from penstock_server.limits import Limits, estimate
from penstock_server.providers import Call, Events
from penstock_server.routes import RouteProvider, Target

from tests.support.processes import until
from tests.support.scripted import ScriptedProvider, serving

Ask = Callable[[grpc.aio.Channel, str], Coroutine[Any, Any, Any]]


async def unary(channel: grpc.aio.Channel, model: str, **more: Any) -> v1.GenerateResponse:
    request = v1.GenerateRequest(model=model, prompt="Hi", **more)
    return await v1.GenerationServiceStub(channel).Generate(request, timeout=20)


async def stream(channel: grpc.aio.Channel, model: str) -> v1.GenerateResponse:
    request = v1.StreamGenerateRequest(request=v1.GenerateRequest(model=model, prompt="Hi"))
    events = [
        e async for e in v1.GenerationServiceStub(channel).StreamGenerate(request, timeout=20)
    ]
    return events[-1].completed


async def embed(channel: grpc.aio.Channel, model: str) -> v1.EmbedResponse:
    request = v1.EmbedRequest(model=model, inputs=["Hi"])
    return await v1.EmbeddingServiceStub(channel).Embed(request, timeout=20)


each_way = pytest.mark.parametrize("ask", [unary, stream, embed])


class Embedding(ScriptedProvider):
    """Embeds, too; and its answers have so many tokens."""

    tokens = 3

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        self.calls.append(call)
        return v1.EmbedResponse(usage=v1.Usage(input_tokens=self.tokens))

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        async for event in super().stream(model, request, call):
            if event.HasField("completed"):
                event.completed.usage.output_tokens = self.tokens
            yield event


def limited(limits: Limits, name: str = "test", **settings: Any) -> Embedding:
    provider = Embedding(name)
    provider.limiter = limits.of(f"provider/{name}", CallLimits.model_validate(settings))
    return provider


def anonymous(limits: Limits, **settings: Any) -> Door:
    policy = PolicySettings.model_validate({"limits": settings})
    return Door(AuthSettings(anonymous="all"), {}, {"all": policy}, limits)


async def refused(call: Awaitable[Any]) -> PenstockError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = from_rpc_error(caught.value)
    assert isinstance(error, RateLimitError)
    assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert error.retry_delay is not None
    return error


@each_way
@pytest.mark.parametrize("whose", ["provider", "caller"])
async def test_as_many_requests_as_allowed(ask: Ask, whose: str) -> None:
    limits = Limits()
    bound = {"requests": "20/60s"}
    provider = limited(limits, **(bound if whose == "provider" else {}))
    door = anonymous(limits, **bound) if whose == "caller" else None
    async with serving(provider, door=door) as (_, channel):
        outcomes = await asyncio.gather(
            *(ask(channel, "test/echo") for _ in range(50)), return_exceptions=True
        )
        assert Counter(isinstance(one, grpc.RpcError) for one in outcomes) == {
            False: 20,
            True: 30,
        }
        assert len(provider.calls) == 20
        error = await refused(ask(channel, "test/echo"))
    scope = "provider/test" if whose == "provider" else "caller/anonymous"
    assert error.metadata["scope"] == scope
    assert (error.metadata["limit"], error.metadata["allowed"]) == ("requests", "20/60s")
    assert 50 < (error.retry_delay or 0) < 62
    assert scope in error.message


@each_way
async def test_tokens_are_counted_as_they_were(ask: Ask) -> None:
    limits = Limits()
    provider = limited(limits, tokens="1000/60s", reserve=400)
    provider.tokens = 90
    async with serving(provider) as (_, channel):
        # One after the other: each counts as 400 while it runs, and as 90 from then on (the answer
        # to an embedding has no tokens of its own, and nothing is reserved for it).
        for _ in range(12 if ask is embed else 7):
            await ask(channel, "test/echo")
        error = await refused(ask(channel, "test/echo"))
        assert error.metadata["limit"] == "tokens"


async def test_what_runs_counts_as_what_it_may_become() -> None:
    limits = Limits()
    provider = limited(limits, tokens="1000/60s", reserve=400)
    async with serving(provider) as (_, channel):
        running = [asyncio.create_task(unary(channel, "test/slow")) for _ in range(2)]
        await until(lambda: len(provider.calls) == 2)
        await refused(unary(channel, "test/echo"))
        # What a request bounds itself is what it counts as.
        sampling = v1.Sampling(max_output_tokens=100)
        await unary(channel, "test/echo", sampling=sampling)
        provider.resume.set()
        await asyncio.gather(*running)
        await unary(channel, "test/echo")


@pytest.mark.parametrize("ask", [unary, stream])
async def test_a_failure_uses_no_tokens(ask: Ask) -> None:
    limits = Limits()
    async with serving(limited(limits, tokens="1000/60s", reserve=400)) as (_, channel):
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(channel, "test/fail")
            assert from_rpc_error(caught.value).reason == "PROVIDER_RATE_LIMITED"
        await ask(channel, "test/echo")


def test_estimates() -> None:
    request = v1.GenerateRequest(prompt="x" * 40, system="y" * 40)
    request.messages.add().parts.add(text="z" * 40)
    assert estimate(request, 1000) == 31 + 1000
    request.sampling.max_output_tokens = 7
    assert estimate(request, 1000) == 31 + 7
    assert estimate(v1.EmbedRequest(inputs=["x" * 40] * 3), 1000) == 31


@pytest.mark.parametrize("ask", [unary, stream])
async def test_a_slow_provider_starves_no_other(ask: Ask, report: Callable[[str], None]) -> None:
    limits = Limits()
    slow, quick = limited(limits, "slow", concurrency=5, queue=10), limited(limits, "quick")
    async with serving(slow, quick) as (_, channel):
        calls = [asyncio.create_task(ask(channel, "slow/slow")) for _ in range(60)]
        await until(lambda: sum(call.done() for call in calls) == 45)
        assert len(slow.calls) == 5
        begun = time.monotonic()
        for _ in range(50):
            await ask(channel, "quick/echo")
        took = (time.monotonic() - begun) / 50
        error = await refused(ask(channel, "slow/slow"))
        assert error.metadata["limit"] == "concurrency"
        slow.resume.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(not isinstance(one, BaseException) for one in outcomes) == 15
        assert slow.limiter is not None
        assert not slow.limiter.busy
        report(f"5 run, 10 wait, 45 refused; a call to another provider takes {took * 1e3:.1f} ms")


async def test_who_leaves_the_queue_frees_the_place() -> None:
    limits = Limits()
    provider = limited(limits, concurrency=1, queue=1)
    async with serving(provider) as (_, channel):
        running = asyncio.create_task(unary(channel, "test/slow"))
        await provider.begun.wait()
        bulkhead = provider.limiter.bulkhead if provider.limiter else None
        assert bulkhead is not None
        impatient = asyncio.create_task(unary(channel, "test/echo"))
        await until(lambda: bulkhead.waiting == 1)
        impatient.cancel()
        await until(lambda: bulkhead.waiting == 0)
        patient = asyncio.create_task(unary(channel, "test/echo"))
        await until(lambda: bulkhead.waiting == 1)
        running.cancel()  # a cancelled call gives up its place, too
        await patient
        assert bulkhead.running == 0


async def test_a_deadline_that_cannot_be_kept_is_told_at_once() -> None:
    limits = Limits()
    provider = limited(limits, concurrency=1)
    async with serving(provider) as (_, channel):
        running = asyncio.create_task(unary(channel, "test/slow"))
        await provider.begun.wait()
        await asyncio.sleep(0.6)  # that is what a call takes, as far as is known then
        provider.resume.set()
        await running
        provider.resume.clear()
        provider.begun.clear()
        running = asyncio.create_task(unary(channel, "test/slow"))
        await provider.begun.wait()
        begun = time.monotonic()
        stub = v1.GenerationServiceStub(channel)
        error = await refused(
            stub.Generate(v1.GenerateRequest(model="test/echo", prompt="Hi"), timeout=0.4)
        )
        assert time.monotonic() - begun < 0.3
        assert "its turn would come in" in error.message
        provider.resume.set()
        await running


@each_way
async def test_a_route_goes_on_where_a_limit_is_reached(ask: Ask) -> None:
    limits = Limits()
    one, two = limited(limits, "one", requests="5/60s"), limited(limits, "two")
    route = RouteProvider("both", [Target(one, "echo"), Target(two, "echo")])
    route.limiter = limits.of("route/both", CallLimits.model_validate({"requests": "8/60s"}))
    async with serving(one, two, routes=[route]) as (_, channel):
        answers = [await ask(channel, "both") for _ in range(8)]
        assert (len(one.calls), len(two.calls)) == (5, 3)
        assert [a.reason for a in answers[-1].attempts] == [v1.ERROR_REASON_LIMIT_EXCEEDED]
        error = await refused(ask(channel, "both"))
        assert error.metadata["scope"] == "route/both"
        model = (
            await v1.ModelServiceStub(channel).GetModel(v1.GetModelRequest(model="both"))
        ).model
        assert {t.circuit for t in model.targets} == {v1.CIRCUIT_STATE_CLOSED}, "it did not fail"


@pytest.mark.parametrize(
    "settings", [{}, {"concurrency": 3}, {"requests": "5/m"}, {"tokens": ["5/m", "6/h"]}]
)
def test_a_limiter_keeps_its_counts_while_its_settings_stay(settings: Mapping[str, Any]) -> None:
    limits = Limits()
    first = limits.of("a", CallLimits.model_validate(settings))
    assert (first is None) == (not settings)
    assert limits.of("a", CallLimits.model_validate(settings)) is first
    changed = limits.of("a", CallLimits.model_validate({**settings, "requests": "9/m"}))
    assert changed is not first


def test_limiters_that_nobody_uses_are_forgotten() -> None:
    limits = Limits()
    settings = CallLimits.model_validate({"concurrency": 3})
    for number in range(5_000):
        limits.of(f"caller/{number}", settings)
    assert len(limits._known) <= 1_000
