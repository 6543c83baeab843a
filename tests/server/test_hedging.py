"""Hedging over a real server: when a second target is asked, who answers, and who is let go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from penstock import v1
from penstock.errors import PenstockError, from_rpc_error
from penstock_server.circuit import Circuit, CircuitPolicy, State
from penstock_server.config import GatewayConfig
from penstock_server.errors import Failure
from penstock_server.gateway import Gateway
from penstock_server.hedging import HedgePolicy
from penstock_server.network import make
from penstock_server.provider_settings import NetworkSettings
from penstock_server.providers import Call
from penstock_server.routes import RouteProvider, Target

from tests.providers import upstream as http
from tests.support.processes import until
from tests.support.scripted import WORDS, ScriptedProvider, serving

AWAY = Failure(v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "away")
REFUSED = Failure(v1.ERROR_REASON_UNSUPPORTED_FEATURE, "cannot do that")


class Paced(ScriptedProvider):
    """Answers after ``pause`` seconds, or fails then; for ever it waits where that is None."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.pause: float | None = 0.0
        self.failure: Failure | None = None
        self.let_go = 0

    async def _wait(self, call: Call) -> None:
        self.calls.append(call)
        try:
            async with asyncio.timeout(self.pause):
                await asyncio.Event().wait()
        except TimeoutError:
            if self.failure is not None:
                raise self.failure.again() from None
        except asyncio.CancelledError:
            self.let_go += 1
            raise

    async def generate(
        self, model: str, request: v1.GenerateRequest, call: Call
    ) -> v1.GenerateResponse:
        await self._wait(call)
        return v1.GenerateResponse(model=self.full_name(model))

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        await self._wait(call)
        return v1.EmbedResponse(model=self.full_name(model))


class Pair:
    """A route of two targets, the second of which is asked where the first takes long."""

    def __init__(self, policy: HedgePolicy) -> None:
        self.one, self.two = Paced("one"), Paced("two")
        circuit = CircuitPolicy(failures=1, cooldown=60)
        self.targets = [Target(p, "echo", 1, Circuit(circuit)) for p in (self.one, self.two)]
        self.route = RouteProvider("both", self.targets, hedge=policy)
        self.channel: Any = None


@asynccontextmanager
async def pair(**policy: Any) -> AsyncIterator[Pair]:
    made = Pair(HedgePolicy(**policy))
    async with serving(made.one, made.two, routes=[made.route]) as (_, channel):
        made.channel = channel
        yield made


def generate(channel: grpc.aio.Channel) -> Any:
    request = v1.GenerateRequest(model="both", prompt="Hi")
    return v1.GenerationServiceStub(channel).Generate(request, timeout=20)


def embed(channel: grpc.aio.Channel) -> Any:
    request = v1.EmbedRequest(model="both", inputs=["Hi"])
    return v1.EmbeddingServiceStub(channel).Embed(request, timeout=20)


async def error_of(call: Any) -> PenstockError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


ways = pytest.mark.parametrize("ask", [generate, embed])


@ways
async def test_where_the_first_takes_long_the_second_answers(ask: Any) -> None:
    async with pair(after=0.05) as both:
        both.one.pause = None
        answer = await ask(both.channel)
        assert answer.model == "two/echo"
        (attempt,) = answer.attempts
        assert (attempt.model, attempt.hedged) == ("one/echo", True)
        assert attempt.reason == v1.ERROR_REASON_UNSPECIFIED
        assert "another one was quicker" in attempt.message
        assert both.one.let_go == 1
        # Being slow is no failure: it is asked as before.
        assert [t.circuit.state for t in both.targets] == [State.CLOSED] * 2
        assert [t.outstanding for t in both.targets] == [0, 0]


@ways
async def test_the_first_may_still_win(ask: Any) -> None:
    async with pair(after=0.02) as both:
        both.one.pause, both.two.pause = 0.2, None
        answer = await ask(both.channel)
        assert answer.model == "one/echo"
        assert [(a.model, a.hedged) for a in answer.attempts] == [("two/echo", True)]
        assert both.two.let_go == 1


@ways
async def test_where_the_first_is_quick_nobody_else_is_asked(ask: Any) -> None:
    async with pair(after=2, share=1) as both:
        for _ in range(20):
            answer = await ask(both.channel)
            assert not answer.attempts
        assert not both.two.calls


async def test_streams_have_one_target() -> None:
    async with pair(after=0.01) as both:
        inner = v1.GenerateRequest(model="both", prompt="Hi")
        request = v1.StreamGenerateRequest(request=inner)
        both.targets[0].model = "slow"
        stub = v1.GenerationServiceStub(both.channel)
        events = stub.StreamGenerate(request, timeout=20)
        await both.one.begun.wait()
        await asyncio.sleep(0.1)  # ten times as long as a call that is answered whole would wait
        both.one.resume.set()
        text = "".join([e.part_delta.text async for e in events])
        assert text == "".join(WORDS)
        assert not both.two.calls


async def test_no_more_than_a_share_of_the_calls(report: Callable[[str], None]) -> None:
    async with pair(after=0.01, share=1 / 8) as both:
        both.one.pause = 0.1
        for done in range(1, 25):
            await generate(both.channel)
            assert len(both.two.calls) <= 1 + done / 8
        assert len(both.two.calls) == 1 + 24 / 8
        # At once, too.
        await asyncio.gather(*(generate(both.channel) for _ in range(72)))
        assert len(both.two.calls) == 1 + 96 / 8
        report(f"{len(both.two.calls)} hedges of 96 calls, each of them slow, at a share of 1/8")


async def test_a_quantile_of_what_was_seen(report: Callable[[str], None]) -> None:
    async with pair(quantile=0.9, share=1) as both:
        both.one.pause = 0.02
        for _ in range(20):  # enough to know how long it takes
            await generate(both.channel)
        assert not both.two.calls
        both.one.pause = None
        began = time.monotonic()
        assert (await generate(both.channel)).model == "two/echo"
        took = time.monotonic() - began
        assert took > 0.02
        report(f"20 calls of 20 ms, then one that hangs: answered by another after {took:.3f} s")
        # Texts take another time than vectors: of these, nothing is known yet.
        both.one.pause = 0.05
        assert (await embed(both.channel)).model == "one/echo"


@ways
async def test_both_fail(ask: Any) -> None:
    async with pair(after=0.02) as both:
        both.one.pause, both.two.pause = 0.1, 0.1
        both.one.failure = AWAY
        both.two.failure = Failure(v1.ERROR_REASON_PROVIDER_RATE_LIMITED, "enough", retry_delay=5)
        error = await error_of(ask(both.channel))
        assert error.reason == "PROVIDER_RATE_LIMITED"
        assert "one/echo (PROVIDER_UNAVAILABLE: away)" in error.message
        assert "two/echo (PROVIDER_RATE_LIMITED: enough)" in error.message
        assert [t.circuit.state for t in both.targets] == [State.OPEN] * 2


@ways
async def test_one_of_two_that_are_asked_fails(ask: Any) -> None:
    async with pair(after=0.02) as both:
        both.one.pause, both.one.failure, both.two.pause = 0.1, AWAY, 0.2
        answer = await ask(both.channel)
        assert answer.model == "two/echo"
        assert [(a.model, a.hedged, a.message) for a in answer.attempts] == [
            ("one/echo", False, "away")
        ]
        assert len(both.two.calls) == 1  # and not once more since the first one failed


@ways
async def test_the_second_one_is_a_chance_and_no_risk(ask: Any) -> None:
    async with pair(after=0.02) as both:
        both.one.pause, both.two.failure = 0.2, REFUSED
        answer = await ask(both.channel)
        assert answer.model == "one/echo"
        assert [a.model for a in answer.attempts] == ["two/echo"]


@ways
async def test_what_the_first_one_refuses_is_refused(ask: Any) -> None:
    async with pair(after=0.02) as both:
        both.one.pause, both.one.failure, both.two.pause = 0.1, REFUSED, None
        assert (await error_of(ask(both.channel))).reason == "UNSUPPORTED_FEATURE"
        assert both.two.let_go == 1


@ways
async def test_who_failed_is_followed_as_without_hedging(ask: Any) -> None:
    async with pair(after=5) as both:
        both.one.failure = AWAY
        answer = await ask(both.channel)
        assert answer.model == "two/echo"
        assert [a.reason for a in answer.attempts] == [v1.ERROR_REASON_PROVIDER_UNAVAILABLE]


@ways
async def test_a_caller_who_goes_leaves_nobody_behind(ask: Any) -> None:
    async with pair(after=0.02) as both:
        both.one.pause = both.two.pause = None
        call = ask(both.channel)
        await until(lambda: both.one.calls and both.two.calls)
        call.cancel()
        await until(lambda: both.one.let_go == both.two.let_go == 1)
        assert [t.outstanding for t in both.targets] == [0, 0]
        assert [t.circuit.state for t in both.targets] == [State.CLOSED] * 2


async def test_the_losers_upstream_is_hung_up_on() -> None:
    async with http.serving() as slow, http.serving() as quick:
        slow.otherwise = http.Script(ending="hold")
        quick.otherwise = http.as_json(http.completion({"content": "Here."}))
        providers = []
        for name, upstream in (("slow", slow), ("quick", quick)):
            settings = {"kind": "openai-compatible", "base_url": upstream.url}
            made = make(name, NetworkSettings.model_validate(settings), {})
            made._local = False  # nobody looks at its health
            providers.append(made)
        targets = [Target(provider, "m") for provider in providers]
        route = RouteProvider("both", targets, hedge=HedgePolicy(after=0.05))
        async with serving(*providers, routes=[route]) as (_, channel):
            answer = await generate(channel)
            assert answer.model == "quick/m"
            assert answer.message.parts[0].text == "Here."
            await slow.hung_up()
            assert len(slow.received) == len(quick.received) == 1


@pytest.mark.parametrize(
    ("hedge", "said"),
    [
        ({"after": 1.5}, HedgePolicy(after=1.5)),
        ({"quantile": 0.95, "share": 0.02}, HedgePolicy(quantile=0.95, share=0.02)),
        ({}, "either after"),
        ({"after": 1, "quantile": 0.9}, "either after"),
        ({"after": 0}, "greater than 0"),
        ({"after": 1, "share": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings(hedge: Mapping[str, float], said: HedgePolicy | str) -> None:
    settings = {
        "providers": {"ollama": {"kind": "ollama"}},
        "routes": {"both": {"targets": ["ollama/a", "ollama/b"], "hedge": hedge}},
    }
    if isinstance(said, str):
        with pytest.raises(ValueError, match=said):
            GatewayConfig.model_validate(settings)
        return
    config = GatewayConfig.model_validate(settings)
    (route,) = Gateway({}).assemble(config).routes
    assert isinstance(route, RouteProvider)
    assert route._hedges is not None
    assert {hedge._policy for hedge in route._hedges.values()} == {said}
