"""Names of models → providers: full ones, aliases, and bare ones that a single provider has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from penstock import v1
from penstock_server import catalog
from penstock_server.config import ConfigError, GatewayConfig
from penstock_server.errors import Failure
from penstock_server.gateway import Gateway
from penstock_server.providers import Call
from penstock_server.routing import Router

from tests.support.scripted import ScriptedProvider, serving

CALL = Call("r1")


class Listing(ScriptedProvider):
    """Has these models, and counts how often it is asked which."""

    def __init__(self, name: str, *models: str, hangs: bool = False) -> None:
        super().__init__(name)
        self.models = models
        self.hangs = hangs
        self.asked = 0

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        return [v1.Model(name=self.full_name(m), provider=self.name) for m in self.models]


@pytest.mark.parametrize(
    ("name", "provider", "model"),
    [
        ("a/echo", "a", "echo"),
        ("a/org/echo", "a", "org/echo"),
        ("fast", "b", "small"),
        ("team/fast", "b", "org/small"),
        ("only-in-b", "b", "only-in-b"),
        ("org/only-in-b", "b", "org/only-in-b"),
        ("tagged", "b", "tagged"),
        ("a", "b", "a"),
    ],
)
async def test_names(name: str, provider: str, model: str) -> None:
    router = Router(
        [
            Listing("a", "echo", "both"),
            Listing("b", "only-in-b", "both", "org/only-in-b", "tagged:latest", "a"),
        ],
        {"fast": "b/small", "team/fast": "b/org/small"},
    )
    route = await router.route(name, CALL)
    assert (route.provider.name, route.model) == (provider, model)


async def test_a_name_that_several_have_is_not_guessed() -> None:
    router = Router([Listing("a", "both"), Listing("b", "both")])
    with pytest.raises(Failure, match=r"write one of a/both, b/both") as caught:
        await router.route("both", CALL)
    assert caught.value.reason_name == "PROVIDER_NOT_FOUND"


async def test_listings_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Listing("a", "x"), Listing("b", "y")
    router = Router([one, other])
    for _ in range(5):
        await router.route("y", CALL)
    assert (one.asked, other.asked) == (1, 1)
    monkeypatch.setattr(catalog, "KEPT", -1.0)
    fresh = Router([one, other])
    for _ in range(2):
        await fresh.route("y", CALL)
    assert (one.asked, other.asked) == (3, 3)


async def test_full_names_ask_nobody() -> None:
    one, other = Listing("a", "x"), Listing("b", "y")
    await Router([one, other], {"z": "b/y"}).route("z", CALL)
    await Router([one, other]).route("a/x", CALL)
    assert one.asked == other.asked == 0


async def test_who_hangs_does_not_keep_the_others_from_being_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalog, "LISTING_TIMEOUT", 0.1)
    router = Router([Listing("a", hangs=True), Listing("b", "y")])
    async with asyncio.timeout(5):
        assert (await router.route("y", CALL)).provider.name == "b"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fats", "did you mean 'fast'"),
        ("aa/echo", "no provider is named 'aa'; did you mean 'a'"),
        ("nothing-like-it", "no provider lists it"),
    ],
)
async def test_unknown_names_get_a_hint(name: str, words: str) -> None:
    router = Router([Listing("a", "x"), Listing("b")], {"fast": "a/x"})
    with pytest.raises(Failure) as caught:
        await router.route(name, CALL)
    assert words in caught.value.message


async def test_the_answer_names_the_model_that_an_alias_stands_for() -> None:
    provider = ScriptedProvider()
    async with serving(provider, aliases={"fast": "test/echo"}) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        answer = await stub.Generate(v1.GenerateRequest(model="fast", prompt="Hi"))
        request = v1.StreamGenerateRequest(request=v1.GenerateRequest(model="fast", prompt="Hi"))
        events = [event async for event in stub.StreamGenerate(request)]
    assert answer.model == "test/echo"
    assert events[-1].completed.model == "test/echo"


@pytest.mark.parametrize("target", ["nobody/m", "just-a-name", "/", ""])
def test_aliases_that_lead_nowhere_are_refused_at_the_start(target: str) -> None:
    settings = GatewayConfig.model_validate(
        {"providers": {"ollama": {"kind": "ollama"}}, "aliases": {"fast": target}}
    )
    with pytest.raises(ConfigError, match=r"aliases\.fast"):
        Gateway({}).assemble(settings)
