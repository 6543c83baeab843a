"""Routes over a real server: who answers, who is tried, and what callers notice of failures."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from penstock import v1
from penstock.errors import PenstockError, from_rpc_error
from penstock_server.circuit import Circuit, CircuitPolicy, State
from penstock_server.config import ConfigError, GatewayConfig
from penstock_server.errors import Failure
from penstock_server.gateway import Gateway
from penstock_server.providers import Call, Events
from penstock_server.route_settings import DEFAULT_FALLBACKS
from penstock_server.routes import REASONS, RouteProvider, Target

from tests.support.processes import until
from tests.support.scripted import WORDS, ScriptedProvider, serving

UNAVAILABLE = v1.ERROR_REASON_PROVIDER_UNAVAILABLE
EVERY_KIND = sorted({reason for reasons in REASONS.values() for reason in reasons})


class Fickle(ScriptedProvider):
    """Fails as it is told, ``after`` so many events."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.failure: Failure | None = None
        self.after = 0

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        count = 0
        async for event in super().stream(model, request, call):
            if self.failure is not None and count == self.after:
                raise self.failure.again()
            count += 1
            yield event

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure.again()
        return v1.EmbedResponse(model=self.full_name(model))

    async def get_model(self, model: str, call: Call) -> v1.Model:
        capabilities = [v1.CAPABILITY_GENERATE]
        if self.name == "one":
            capabilities.append(v1.CAPABILITY_TOOLS)
        length = 4_000 if self.name == "one" else 2_000
        return v1.Model(
            name=self.full_name(model), capabilities=capabilities, context_length=length
        )


@asynccontextmanager
async def routed(
    policy: CircuitPolicy | None = None, weights: Sequence[float] = (1, 1), **options: Any
) -> AsyncIterator[tuple[Fickle, Fickle, grpc.aio.Channel]]:
    one, two = Fickle("one"), Fickle("two")
    targets = [
        Target(provider, "echo", weight, Circuit(policy or CircuitPolicy()))
        for provider, weight in zip((one, two), weights, strict=True)
    ]
    route = RouteProvider("both", targets, **options)
    async with serving(one, two, routes=[route]) as (_, channel):
        yield one, two, channel


async def unary(channel: grpc.aio.Channel, model: str = "both") -> v1.GenerateResponse:
    request = v1.GenerateRequest(model=model, prompt="Hi")
    return await v1.GenerationServiceStub(channel).Generate(request, timeout=20)


async def stream(channel: grpc.aio.Channel) -> v1.GenerateResponse:
    """The completed event of a stream that is told rightly."""
    inner = v1.GenerateRequest(model="both", prompt="Hi")
    request = v1.StreamGenerateRequest(request=inner)
    events = [
        e async for e in v1.GenerationServiceStub(channel).StreamGenerate(request, timeout=20)
    ]
    assert [e.HasField("started") for e in events] == [True] + [False] * (len(events) - 1)
    assert "".join(e.part_delta.text for e in events) == "".join(WORDS)
    assert events[0].started.model == events[-1].completed.model
    return events[-1].completed


async def embed(channel: grpc.aio.Channel) -> v1.EmbedResponse:
    request = v1.EmbedRequest(model="both", inputs=["Hi"])
    return await v1.EmbeddingServiceStub(channel).Embed(request, timeout=20)


async def target(channel: grpc.aio.Channel, name: str) -> v1.RouteTarget:
    request = v1.GetModelRequest(model="both")
    model = (await v1.ModelServiceStub(channel).GetModel(request)).model
    (found,) = (t for t in model.targets if t.model == f"{name}/echo")
    return found


async def error_of(call: Any) -> PenstockError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


ways = pytest.mark.parametrize("ask", [unary, stream, embed])


@ways
async def test_the_first_that_can_answers(ask: Any) -> None:
    async with routed() as (one, two, channel):
        for _ in range(3):
            answer = await ask(channel)
            assert answer.model == "one/echo"
            assert not answer.attempts
        assert (len(one.calls), len(two.calls)) == (3, 0)


@ways
@pytest.mark.parametrize("reason", EVERY_KIND, ids=v1.ErrorReason.Name)
async def test_which_failures_are_another_targets_chance(
    reason: v1.ErrorReason.ValueType, ask: Any
) -> None:
    async with routed() as (one, two, channel):
        one.failure = Failure(reason, "something is wrong")
        if any(reason in REASONS[kind] for kind in DEFAULT_FALLBACKS):
            answer = await ask(channel)
            (attempt,) = answer.attempts
            assert answer.model == "two/echo"
            assert attempt.model == "one/echo"
            assert (attempt.reason, attempt.message) == (reason, "something is wrong")
        else:
            error = await error_of(ask(channel))
            assert f"ERROR_REASON_{error.reason}" == v1.ErrorReason.Name(reason)
            assert not two.calls


async def test_other_kinds_where_the_operator_says_so() -> None:
    async with routed(fallbacks=["context_length"]) as (one, two, channel):
        one.failure = Failure(v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED, "too long")
        assert (await unary(channel)).model == "two/echo"
        one.failure = Failure(UNAVAILABLE, "away")
        assert (await error_of(unary(channel))).reason == "PROVIDER_UNAVAILABLE"
        assert len(two.calls) == 1


async def test_a_stream_that_has_only_begun_may_still_be_anothers() -> None:
    async with routed() as (one, _, channel):
        one.failure, one.after = Failure(UNAVAILABLE, "away"), 1
        assert (await stream(channel)).model == "two/echo"
        one.after = 3
        error = await error_of(stream(channel))
        assert (error.reason, error.message) == ("PROVIDER_UNAVAILABLE", "away")


@ways
async def test_where_all_fail_everything_is_told(ask: Any) -> None:
    async with routed() as (one, two, channel):
        one.failure = Failure(UNAVAILABLE, "one is away")
        two.failure = Failure(
            v1.ERROR_REASON_PROVIDER_RATE_LIMITED, "two has enough", retry_delay=7
        )
        error = await error_of(ask(channel))
        assert error.reason == "PROVIDER_RATE_LIMITED"
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        for said in ("route 'both'", "one is away", "two has enough", "PROVIDER_UNAVAILABLE"):
            assert said in error.message
        assert error.retry_delay is not None


async def test_a_target_that_fails_is_left_alone_and_comes_back(
    report: Callable[[str], None],
) -> None:
    policy = CircuitPolicy(failures=5, cooldown=0.3)
    async with routed(policy) as (one, two, channel):
        one.failure = Failure(UNAVAILABLE, "away")
        began = time.monotonic()
        for _ in range(8):
            assert (await unary(channel)).model == "two/echo"
        opened = time.monotonic() - began
        assert len(one.calls) == 5
        told = await target(channel, "one")
        assert told.circuit == v1.CIRCUIT_STATE_OPEN
        assert 0 < told.retry_delay.ToMilliseconds() <= 300
        one.failure = None
        began = time.monotonic()
        while (await unary(channel)).model != "one/echo":
            pass
        closed = time.monotonic() - began
        assert (await target(channel, "one")).circuit == v1.CIRCUIT_STATE_CLOSED
        assert not (await target(channel, "one")).HasField("retry_delay")
        report(f"open after 5 failures, {opened * 1000:.0f} ms; closed after {closed:.2f} s")
        assert two.calls


async def test_retry_after_is_heeded() -> None:
    async with routed() as (one, _, channel):
        one.failure = Failure(v1.ERROR_REASON_PROVIDER_RATE_LIMITED, "enough", retry_delay=60)
        for _ in range(3):
            assert (await unary(channel)).model == "two/echo"
        assert len(one.calls) == 1
        assert (await target(channel, "one")).retry_delay.ToSeconds() in (59, 60)


async def test_where_nobody_may_be_asked_it_says_when() -> None:
    async with routed() as (one, two, channel):
        one.failure = two.failure = Failure(
            v1.ERROR_REASON_PROVIDER_RATE_LIMITED, "enough", retry_delay=30
        )
        await error_of(unary(channel))
        error = await error_of(unary(channel))
        assert (len(one.calls), len(two.calls)) == (1, 1)
        assert error.reason == "PROVIDER_UNAVAILABLE"
        assert "not asked for now" in error.message
        assert error.retry_delay is not None
        assert 25 < error.retry_delay <= 30
        request = v1.GetModelRequest(model="both")
        model = (await v1.ModelServiceStub(channel).GetModel(request)).model
        assert model.state == v1.MODEL_STATE_FAILED


@ways
async def test_where_all_have_failed_they_are_tried_early(
    ask: Any, report: Callable[[str], None]
) -> None:
    policy = CircuitPolicy(failures=1, cooldown=300)
    async with routed(policy) as (one, two, channel):
        one.failure = two.failure = Failure(UNAVAILABLE, "away")
        for asked in range(1, 6):
            await error_of(ask(channel))
            assert (len(one.calls), len(two.calls)) == (asked, asked)
        waits = [(await target(channel, n)).retry_delay.ToSeconds() for n in ("one", "two")]
        assert all(290 < wait <= 300 for wait in waits)  # not longer with each of them
        two.failure = None
        began = time.monotonic()
        assert (await ask(channel)).model == "two/echo"
        report(f"back after {time.monotonic() - began:.3f} s, with 300 s of cooldown left")
        assert (await target(channel, "two")).circuit == v1.CIRCUIT_STATE_CLOSED
        assert (await target(channel, "one")).circuit == v1.CIRCUIT_STATE_OPEN
        tried = len(one.calls)
        assert (await ask(channel)).model == "two/echo"
        assert len(one.calls) == tried  # somebody else is there again


async def test_of_many_who_have_nowhere_else_to_go_one_tries() -> None:
    policy = CircuitPolicy(failures=1, cooldown=300)
    one = Fickle("one")
    slow = Target(one, "slow", circuit=Circuit(policy))
    async with serving(one, routes=[RouteProvider("both", [slow])]) as (_, channel):
        one.failure = Failure(UNAVAILABLE, "away")
        await error_of(unary(channel))
        one.failure = None
        trial = asyncio.create_task(unary(channel))
        await one.begun.wait()
        for _ in range(5):  # the others are told at once
            assert "not asked for now" in (await error_of(unary(channel))).message
        assert len(one.calls) == 2
        one.resume.set()
        assert (await trial).model == "one/slow"
        assert (await unary(channel)).model == "one/slow"


async def test_who_asked_for_a_pause_is_not_tried_early() -> None:
    policy = CircuitPolicy(failures=1, cooldown=300)
    async with routed(policy) as (one, two, channel):
        one.failure = Failure(v1.ERROR_REASON_PROVIDER_RATE_LIMITED, "enough", retry_delay=30)
        two.failure = Failure(UNAVAILABLE, "away")
        for _ in range(3):
            await error_of(unary(channel))
        assert (len(one.calls), len(two.calls)) == (1, 3)


async def test_what_a_caller_does_wrong_is_not_the_targets_fault() -> None:
    async with routed(CircuitPolicy(failures=1)) as (one, _, channel):
        one.failure = Failure(v1.ERROR_REASON_CONTENT_REFUSED, "no")
        for _ in range(3):
            await error_of(unary(channel))
        assert (await target(channel, "one")).circuit == v1.CIRCUIT_STATE_CLOSED


@pytest.mark.parametrize("flavour", ["unary", "stream"])
async def test_a_trial_whose_caller_goes_decides_nothing(flavour: str) -> None:
    policy = CircuitPolicy(failures=1, cooldown=0.05)
    one = Fickle("one")
    slow = Target(one, "slow", circuit=Circuit(policy))
    async with serving(one, routes=[RouteProvider("both", [slow])]) as (_, channel):
        one.failure = Failure(UNAVAILABLE, "away")
        await error_of(unary(channel))
        one.failure = None
        await until(lambda: slow.circuit.state is State.HALF_OPEN)
        stub = v1.GenerationServiceStub(channel)
        request = v1.GenerateRequest(model="both", prompt="Hi")
        trial = (
            stub.Generate(request)
            if flavour == "unary"
            else stub.StreamGenerate(v1.StreamGenerateRequest(request=request))
        )
        await one.begun.wait()
        trial.cancel()
        await until(lambda: one.closed == 2 and not slow.outstanding)
        one.resume.set()
        assert (await unary(channel)).model == "one/slow"


async def test_shares() -> None:
    async with routed(weights=(3, 1), strategy="weighted") as (one, two, channel):
        for _ in range(20):
            await asyncio.gather(*(unary(channel) for _ in range(20)))
        assert 250 <= len(one.calls) <= 350  # of 400: 300, and six deviations either way
        assert len(one.calls) + len(two.calls) == 400


async def test_the_least_busy_is_next() -> None:
    one, two = Fickle("one"), Fickle("two")
    targets = [Target(one, "slow", 1), Target(two, "slow", 3)]
    route = RouteProvider("both", targets, "least_busy")
    async with serving(one, two, routes=[route]) as (_, channel):
        tasks = []
        for _ in range(8):
            tasks.append(asyncio.create_task(unary(channel)))
            await until(lambda: len(one.calls) + len(two.calls) == len(tasks))
        assert (len(one.calls), len(two.calls)) == (2, 6)
        one.resume.set()
        two.resume.set()
        await asyncio.gather(*tasks)
        assert [t.outstanding for t in targets] == [0, 0]


async def test_a_failing_target_is_not_noticed_under_steady_load(
    report: Callable[[str], None],
) -> None:
    policy = CircuitPolicy(failures=3, cooldown=0.2)
    async with routed(policy, strategy="least_busy") as (one, two, channel):
        answered: Counter[str] = Counter()
        going = True

        async def caller(number: int) -> None:
            while going:
                answer = await (unary if number % 2 else stream)(channel)
                answered[answer.model] += 1

        def passed(calls: int) -> bool:
            return answered.total() >= calls

        async def trouble() -> None:
            for number in range(6):
                failing = one if number % 2 else two
                failing.after = number % 2
                failing.failure = Failure(UNAVAILABLE, "away")
                await until(partial(passed, answered.total() + 100))
                failing.failure = None
                while (await target(channel, failing.name)).circuit != v1.CIRCUIT_STATE_CLOSED:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

        callers = [asyncio.create_task(caller(number)) for number in range(16)]
        await trouble()
        going = False
        await asyncio.gather(*callers)  # raises where one of them noticed
        report(f"{answered.total()} calls, 0 failed; {dict(answered)}")
        assert min(answered.values()) > 20


async def test_routes_are_listed_and_described() -> None:
    async with routed() as (_, _, channel):
        models = v1.ModelServiceStub(channel)
        listed = (await models.ListModels(v1.ListModelsRequest())).models
        assert [m.name for m in listed] == ["both", "one/echo", "two/echo"]
        assert [t.model for t in listed[0].targets] == ["one/echo", "two/echo"]
        model = (await models.GetModel(v1.GetModelRequest(model="both"))).model
        assert model.capabilities == [v1.CAPABILITY_GENERATE]  # of both
        assert model.context_length == 2_000
        assert model.state == v1.MODEL_STATE_READY
        load = await error_of(models.UnloadModel(v1.UnloadModelRequest(model="both")))
        assert load.reason == "UNSUPPORTED_FEATURE"
        error = await error_of(unary(channel, "boht"))
        assert "did you mean 'both'" in error.message


SETTINGS = {"providers": {"ollama": {"kind": "ollama"}, "lmstudio": {"kind": "lmstudio"}}}


def test_routes_of_a_configuration() -> None:
    config = GatewayConfig.model_validate(
        {
            **SETTINGS,
            "routes": {
                "fast": {
                    "targets": ["ollama/a", {"model": "lmstudio/b", "weight": 3}],
                    "strategy": "weighted",
                    "fallback_on": "unavailable, unsupported",
                    "circuit": {"failures": 2},
                },
                "other": {"targets": "ollama/a, ollama/b:7b"},
            },
        }
    )
    fast, other = (
        one for one in Gateway({}).assemble(config).routes if isinstance(one, RouteProvider)
    )
    assert [(t.name, t.weight) for t in fast.targets] == [("ollama/a", 1), ("lmstudio/b", 3)]
    assert fast.fallbacks == REASONS["unavailable"] | REASONS["unsupported"]
    assert [t.name for t in other.targets] == ["ollama/a", "ollama/b:7b"]


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        ({"fast": {"targets": ["nobody/a"]}}, "routes.fast.targets: 'nobody/a' is not"),
        ({"fast": {"targets": ["ollama"]}}, "routes.fast.targets: 'ollama' is not"),
        ({"ollama": {"targets": ["ollama/a"]}}, "routes.ollama: a provider or an alias"),
    ],
)
def test_routes_that_lead_nowhere_are_refused_at_the_start(routes: Any, said: str) -> None:
    config = GatewayConfig.model_validate({**SETTINGS, "routes": routes})
    with pytest.raises(ConfigError) as caught:
        Gateway({}).assemble(config)
    assert said in str(caught.value)
