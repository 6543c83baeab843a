"""Prompts that begin alike: who is asked, and what it spares. Pure, over the wire, and with real
sidecars."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock import v1
from penstock_server.circuit import Circuit, CircuitPolicy
from penstock_server.config import ServerConfig
from penstock_server.providers import Call, Events
from penstock_server.providers.affinity import LOAD_FACTOR, Affinity, beginning
from penstock_server.providers.sidecar import SIDECAR_PROVIDER, SidecarProvider
from penstock_server.routes import RouteProvider, Target

from tests.support.processes import ServerProcess, eventually, gateway, sidecar, until
from tests.support.scripted import ScriptedProvider, serving

SYSTEM = "You are a helpful assistant who answers briefly, and never about what nobody asked. " * 3


@dataclass
class One:
    name: str
    weight: float = 1.0
    outstanding: int = 0


def affinity() -> Affinity[One]:
    return Affinity(name=lambda one: one.name, weight=lambda one: one.weight)


def keys(count: int) -> Sequence[bytes]:
    return [beginning(v1.GenerateRequest(model="m", prompt=f"{n}")) for n in range(count)]


def turn(number: int, user: str = "", system: str = "") -> v1.GenerateRequest:
    """What a session asks in its n-th turn, in messages."""
    request = v1.GenerateRequest(model="far/tiny", system=system)
    for earlier in range(number):
        text = f"I am {user}. Who are you?" if earlier == 0 else f"And {earlier}?"
        request.messages.add(role=v1.ROLE_USER).parts.add(text=text)
        if earlier < number - 1:
            request.messages.add(role=v1.ROLE_ASSISTANT).parts.add(text=f"Answer {earlier}.")
    return request


def test_what_stays_as_it_is_in_a_conversation() -> None:
    first = beginning(turn(1, "Ada", system=SYSTEM))
    assert beginning(turn(2, "Ada", system=SYSTEM)) == first
    assert beginning(turn(9, "Ada", system=SYSTEM)) == first
    # However it is said.
    prompt = v1.GenerateRequest(model="far/tiny", system=SYSTEM, prompt="I am Ada. Who are you?")
    assert beginning(prompt) == first
    inside = v1.GenerateRequest(model="far/tiny")
    inside.messages.add(role=v1.ROLE_SYSTEM).parts.add(text=SYSTEM)
    inside.messages.extend(turn(2, "Ada").messages)
    assert beginning(inside) == first


def test_what_tells_conversations_apart() -> None:
    tools = turn(1, "Ada", system=SYSTEM)
    tools.tools.add(name="look")
    picture = turn(1, "Ada", system=SYSTEM)
    picture.messages[0].parts.add().image.data = b"a" * 10_000
    another = turn(1, "Ada", system=SYSTEM)
    another.messages[0].parts.add().image.data = b"b" * 10_000
    requests = [
        turn(1, "Ada", system=SYSTEM),
        turn(1, "Bob", system=SYSTEM),  # else all of an application's users went the same way
        turn(1, "Ada"),
        turn(1, SYSTEM + "Ada"),
        tools,
        picture,
        another,
    ]
    assert len({beginning(request) for request in requests}) == len(requests)


def test_beginnings_are_spread_evenly_and_by_weight() -> None:
    members = [One("a"), One("b"), One("c", weight=2)]
    took = Counter(affinity().order(key, members)[0].name for key in keys(4_000))
    assert 850 < took["a"] < 1_150
    assert 850 < took["b"] < 1_150
    assert 1_850 < took["c"] < 2_150


def test_who_goes_takes_nobody_elses_along() -> None:
    """And two gateways agree without having talked."""
    members = [One(name) for name in "abcd"]
    before = {key: affinity().order(key, members)[0].name for key in keys(400)}
    for key, name in before.items():
        assert affinity().order(key, members[::-1])[0].name == name
        if name != "d":
            assert affinity().order(key, members[:3])[0].name == name


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 5))
def test_nobody_is_much_busier_than_the_others(loads: Sequence[int], number: int) -> None:
    members = [One(str(place), outstanding=load) for place, load in enumerate(loads)]
    order = affinity().order(keys(6)[number], members)
    assert sorted(one.name for one in order) == sorted(one.name for one in members)
    mean = (sum(loads) + 1) / len(loads)
    assert order[0].outstanding + 1 <= LOAD_FACTOR * mean + 1


def test_a_flood_that_begins_alike_is_spread() -> None:
    members = [One(name) for name in "abc"]
    own = affinity()
    for _ in range(30):
        own.order(keys(1)[0], members)[0].outstanding += 1
    assert max(one.outstanding for one in members) <= 13


def test_who_had_to_go_elsewhere_stays_there() -> None:
    members = [One("a"), One("b")]
    own = affinity()
    (key,) = keys(1)
    first = own.order(key, members)[0]
    first.outstanding = 9
    second = own.order(key, members)[0]
    assert second is not first
    first.outstanding = 0
    assert own.order(key, members)[0] is second  # where the last turn was computed


class Told(ScriptedProvider):
    """Remembers who came, by what they begin with."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.came: Counter[str] = Counter()

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        first = request.messages[0].parts[0].text if request.messages else request.prompt
        self.came[first] += 1
        async for event in super().stream(model, request, call):
            yield event


async def test_targets_of_a_route() -> None:
    one, two = Told("one"), Told("two")
    policy = CircuitPolicy(failures=1, cooldown=60)
    targets = [Target(p, "echo", 1, Circuit(policy)) for p in (one, two)]
    route = RouteProvider("both", targets, "affinity")
    async with serving(one, two, routes=[route]) as (_, channel):
        stub = v1.GenerationServiceStub(channel)

        async def converse(user: int) -> None:
            for number in range(1, 5):
                request = turn(number, f"{user}")
                request.model = "both"
                await stub.Generate(request, timeout=20)

        for user in range(40):
            await converse(user)
        assert not one.came.keys() & two.came.keys()  # nobody was with both
        assert set(one.came.values()) == set(two.came.values()) == {4}
        assert 8 <= len(one.came) <= 32

        # One that fails is followed by the other, and that is where its sessions stay.
        targets[0].circuit.failed(retry_delay=60)
        one.came.clear()
        two.came.clear()
        for user in range(5):
            await converse(user)
        assert not one.came
        assert len(two.came) == 5


@contextmanager
def pool(count: int) -> Iterator[tuple[Sequence[ServerProcess], grpc.Channel]]:
    with ExitStack() as stack:
        members = [stack.enter_context(sidecar()) for _ in range(count)]
        values = ["kind=sidecar", "addresses=" + ",".join(m.address for m in members)]
        flags = [arg for value in values for arg in ("--set", f"providers.far.{value}")]
        front = stack.enter_context(gateway(*flags))
        for member in members:
            member.ready()
        channel = stack.enter_context(grpc.insecure_channel(front.ready().address))
        numbers = itertools.count()
        while not all(member.calls() for member in members):  # until the gateway knows them all
            converse(channel, f"number {next(numbers)}", turns=1)
        yield members, channel


def converse(channel: grpc.Channel, user: str, turns: int = 3) -> Sequence[int]:
    """A session's turns: how many tokens of each prompt had been computed before."""
    stub = v1.GenerationServiceStub(channel)
    request = v1.GenerateRequest(model="far/tiny", system=SYSTEM)
    request.sampling.max_output_tokens = 6
    request.sampling.temperature = 0
    cached = []
    for number in range(turns):
        text = f"My name is {user}. Who are you?" if number == 0 else "And what else?"
        request.messages.add(role=v1.ROLE_USER).parts.add(text=text)
        answer = stub.Generate(request, timeout=60)
        request.messages.append(answer.message)
        cached.append(answer.usage.cached_input_tokens)
    return cached


USERS = ("Ada", "Bob", "Cleo", "Dan", "Eve", "Finn")
OTHERS = ("Gus", "Hal", "Ivy", "Jon")


def later(sessions: Sequence[Sequence[int]]) -> int:
    return sum(cached for session in sessions for cached in session[1:])


def at_once(channel: grpc.Channel, users: Sequence[str]) -> Sequence[Sequence[int]]:
    with ThreadPoolExecutor(len(users)) as threads:
        return list(threads.map(partial(converse, channel), users))


@pytest.fixture(scope="module")
def alone() -> Sequence[Sequence[Sequence[int]]]:
    """What sessions find that have one sidecar, one after the other and at once."""
    with pool(1) as (_, channel):
        return [converse(channel, user) for user in USERS], at_once(channel, OTHERS)


def test_where_there_is_one_sidecar_it_is_asked(alone: Sequence[Sequence[Sequence[int]]]) -> None:
    assert min(min(session[1:]) for sessions in alone for session in sessions) > 0


def test_sessions_find_what_was_computed_and_others_take_over(
    alone: Sequence[Sequence[Sequence[int]]], report: Callable[[str], None]
) -> None:
    with pool(2) as (members, channel):
        before = [len(member.calls()) for member in members]
        spread = [converse(channel, user) for user in USERS]
        eventually(lambda: sum(len(m.calls()) for m in members) >= sum(before) + 3 * len(USERS))
        shares = [len(m.calls()) - n for m, n in zip(members, before, strict=True)]
        spread_at_once = at_once(channel, OTHERS)
        # All that they would find if there were but one.
        assert [session[1:] for session in spread] == [session[1:] for session in alone[0]]
        report(f"cached tokens of later turns: {later(alone[0])} by one, {later(spread)} by two")
        report(f"the two answered {shares} calls")
        one, two = later(alone[1]), later(spread_at_once)
        report(f"{len(OTHERS)} sessions at once: {one} by one, {two} by two")
        assert two >= 0.75 * one  # a turn may have gone elsewhere, where one was too busy

        assert members[0].stop() == 0
        took_over = len(members[1].calls())
        for user in USERS:
            converse(channel, user, turns=1)
        eventually(lambda: len(members[1].calls()) >= took_over + len(USERS))


@pytest.mark.parametrize("affine", [True, False])
async def test_members_of_a_pool(tmp_path: Path, affine: bool) -> None:
    """Streams, too, and whatever way the gateway talks to its sidecars."""
    one, two = Told(SIDECAR_PROVIDER), Told(SIDECAR_PROVIDER)

    def at(name: str) -> ServerConfig:
        listen = [f"unix:{tmp_path / name}"]
        return ServerConfig.model_validate(
            {"listen": listen, "shutdown": {"notice": 0, "drain": 0}}
        )

    async with (
        serving(one, config=at("a"), linked=True) as (first, _),
        serving(two, config=at("b")) as (second, _),
    ):
        addresses = [first.addresses[0], second.addresses[0]]
        far = SidecarProvider("far", addresses, affinity=affine)
        async with serving(far) as (_, channel):
            await until(lambda: all(m.serving for m in far.members))
            stub = v1.GenerationServiceStub(channel)

            async def converse(user: int) -> None:
                for number in range(1, 4):
                    request = turn(number, f"{user}")
                    request.model = "far/echo"
                    asked = v1.StreamGenerateRequest(request=request)
                    async for _ in stub.StreamGenerate(asked, timeout=20):
                        pass

            for user in range(0, 24, 2):
                await asyncio.gather(converse(user), converse(user + 1))
    assert (one.came + two.came).total() == 24 * 3
    with_both = one.came.keys() & two.came.keys()
    if affine:
        assert len(with_both) <= 4  # where both of two would have gone the same way at once
        assert min(one.came.total(), two.came.total()) > 12
    else:
        assert len(with_both) > 4
