"""Limits that several gateways share, counted in a real Redis; and what happens when it is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import penstock
import pytest
from penstock import v1
from penstock.errors import from_rpc_error

from tests.support.processes import ServerProcess, eventually, gateway, local_tiny
from tests.support.redis_server import Redis, redis_server

RATE = "100/10s"
LONG = "Tell me a long story."


@pytest.fixture
def redis() -> Iterator[Redis]:
    with redis_server() as running:
        yield running


def gateways(stack: ExitStack, redis: Redis, count: int, *more: str) -> list[ServerProcess]:
    """Gateways that know nothing of each other, but have the same configuration."""
    flags = ["--set", f"redis.url={redis.url}", "--set", f"policies.all.limits.requests={RATE}"]
    flags += ["--set", "auth.anonymous=all", *more]
    started = [stack.enter_context(gateway(*local_tiny(), *flags)) for _ in range(count)]
    return [process.ready() for process in started]


async def ask(stub: v1.GenerationServiceAsyncStub, stream: bool) -> str:
    request = v1.GenerateRequest(model="local/tiny", prompt="Hi")
    request.sampling.max_output_tokens = 1
    try:
        if stream:
            async for _ in stub.StreamGenerate(
                v1.StreamGenerateRequest(request=request), timeout=60
            ):
                pass
        else:
            await stub.Generate(request, timeout=60)
    except grpc.aio.AioRpcError as error:
        told = from_rpc_error(error)
        assert told.retry_delay
        return told.reason
    return "OK"


async def all_at_once(processes: list[ServerProcess], callers: int, calls: int) -> Counter[str]:
    """What so many callers get who each call so often, at one gateway after the other."""
    channels = [grpc.aio.insecure_channel(process.address) for process in processes]
    stubs = [v1.GenerationServiceStub(channel) for channel in channels]

    async def caller(number: int) -> list[str]:
        return [
            await ask(stubs[(number + call) % len(stubs)], stream=bool(call % 2))
            for call in range(calls)
        ]

    told = await asyncio.gather(*(caller(number) for number in range(callers)))
    for channel in channels:
        await channel.close()
    return Counter(one for each in told for one in each)


def test_exactly_as_many_as_allowed_at_two_gateways(
    redis: Redis, report: Callable[[str], None]
) -> None:
    with ExitStack() as stack:
        processes = gateways(stack, redis, 2)
        begun = time.monotonic()
        told = asyncio.run(all_at_once(processes, callers=50, calls=5))
        took = time.monotonic() - begun
        report(f"{RATE}, 50 callers, 2 gateways: {dict(told)} in {took:.1f} s")
        assert took < 10, "the machine was too slow for the window: nothing is shown"
        assert told == {"OK": 100, "LIMIT_EXCEEDED": 150}


def test_places_are_shared_and_those_of_the_dead_come_back(
    redis: Redis, report: Callable[[str], None]
) -> None:
    more = ["--set", "policies.all.limits.requests=10000/10s"]
    more += ["--set", "policies.all.limits.concurrency=2", "--set", "policies.all.limits.queue=0"]
    with ExitStack() as stack:
        one, two = gateways(stack, redis, 2, *more)
        with ExitStack() as streams:
            clients = [streams.enter_context(penstock.Client(p.address)) for p in (one, one, two)]
            for client in clients[:2]:
                stream = streams.enter_context(client.stream(LONG, model="local/tiny", seed=1))
                next(stream.text())
            assert asyncio.run(all_at_once([two], 2, 2)) == {"LIMIT_EXCEEDED": 4}
        # Whose streams have been left is free at once.
        eventually(lambda: asyncio.run(all_at_once([two], 1, 1)) == {"OK": 1})
        with penstock.Client(one.address) as client:
            running = [client.stream(LONG, model="local/tiny", seed=n) for n in range(2)]
            for stream in running:
                next(stream.text())
            one.send(signal.SIGKILL)
            took = eventually(
                lambda: asyncio.run(all_at_once([two], 1, 1)) == {"OK": 1}, patience=40
            )
            report(f"the places of a gateway that was killed were free after {took:.0f} s")
            assert took > 5
            assert all(stream.response is None for stream in running)


@pytest.mark.parametrize("when_lost", ["local", "refuse"])
def test_a_redis_that_is_lost_and_comes_back(
    redis: Redis, when_lost: str, report: Callable[[str], None]
) -> None:
    with ExitStack() as stack:
        (process,) = gateways(stack, redis, 1, "--set", f"redis.when_lost={when_lost}")
        assert asyncio.run(all_at_once([process], 5, 2)) == {"OK": 10}
        redis.stop()
        begun = time.monotonic()
        told = asyncio.run(all_at_once([process], 5, 4))
        report(f"{when_lost}: {dict(told)} in {time.monotonic() - begun:.1f} s without Redis")
        assert told == {"OK": 20} if when_lost == "local" else {"LIMIT_EXCEEDED": 20}
        assert process.wait_for(lambda line: "Redis does not answer" in line["message"])
        redis.start()
        deadline = time.monotonic() + 20
        while not any("answers again" in line["message"] for line in process.log):
            asyncio.run(all_at_once([process], 1, 1))
            assert time.monotonic() < deadline
        assert asyncio.run(all_at_once([process], 1, 1)) == {"OK": 1}
        lost = [line for line in process.log if "Redis does not answer" in line["message"]]
        assert len(lost) == 1, "told once"
