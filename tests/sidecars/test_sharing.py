"""Models that share a sidecar's memory: who is loaded, who makes way, and who has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.batching import BatchEngine
from penstock_server.local.budget import Budget
from penstock_server.local.engine import Engine
from penstock_server.local.provider import LocalProvider
from penstock_server.local.recipe import Look
from penstock_server.providers import Call

from tests.sidecars.counting import PATIENCE, CountingBackend, MadeHere
from tests.support.processes import until

CALL = Call("test")


class Shared:
    """Models "a", "b" and "c", of which two fit into memory."""

    def __init__(self, patience: float, keep_alive: float | None, names: str) -> None:
        self.backends: dict[str, CountingBackend] = {}
        self.caches: dict[str, int] = {}
        self.budget = Budget(lambda: 1_000, patience=patience)
        self.health: list[bool] = []
        self.provider = LocalProvider(
            "local",
            {name: MadeHere(self._maker(name), Look(400)) for name in names},
            preload="a",
            budget=self.budget,
            keep_alive=keep_alive,
        )

    def _maker(self, name: str):  # type: ignore[no-untyped-def]
        def make(look: Look, cache_memory: int) -> Engine:
            backend = self.backends[name] = CountingBackend()
            self.caches[name] = cache_memory
            backend.allow_all()
            return BatchEngine(backend, name)

        return make

    async def answer(self, name: str, limit: int = 3) -> v1.GenerateResponse:
        return await self.provider.generate(name, question(limit), CALL)

    async def states(self) -> dict[str, str]:
        models = await self.provider.list_models(CALL)
        return {m.name[-1]: v1.ModelState.Name(m.state).rpartition("_")[2] for m in models}

    async def unloaded(self, name: str) -> None:
        await until(lambda: self.provider._models[name].state == v1.MODEL_STATE_UNLOADED)


def question(limit: int = 3) -> v1.GenerateRequest:
    return v1.GenerateRequest(prompt="Hi", sampling=v1.Sampling(max_output_tokens=limit))


@asynccontextmanager
async def sharing(
    patience: float = PATIENCE, keep_alive: float | None = None, names: str = "abc"
) -> AsyncIterator[Shared]:
    shared = Shared(patience, keep_alive, names)
    await shared.provider.start(shared.health.append)
    try:
        async with asyncio.timeout(PATIENCE):
            await until(lambda: shared.health)
            yield shared
    finally:
        await shared.provider.close()


async def test_each_one_has_its_share_for_what_it_remembers() -> None:
    async with sharing() as shared:
        await shared.answer("b")
        assert all(50 <= cache <= 200 for cache in shared.caches.values())
        assert sum(shared.budget.claimed.values()) <= 1_000


async def test_the_idle_one_that_was_used_longest_ago_makes_way() -> None:
    async with sharing() as shared:
        await shared.answer("b")
        await shared.answer("a")
        await shared.answer("c")
        assert await shared.states() == {"a": "READY", "b": "UNLOADED", "c": "READY"}
        assert shared.backends["b"].unloaded.is_set()
        assert shared.health == [True]


async def test_one_in_use_stays_while_there_is_an_idle_one() -> None:
    async with (
        sharing() as shared,
        aclosing(shared.provider.stream("a", question(), CALL)) as answer,
    ):
        await anext(answer)
        await shared.answer("b")
        await shared.answer("c")
        assert await shared.states() == {"a": "READY", "b": "UNLOADED", "c": "READY"}


async def test_two_that_do_not_fit_together_take_turns() -> None:
    async with sharing() as shared:
        async with (
            aclosing(shared.provider.stream("a", question(), CALL)) as first,
            aclosing(shared.provider.stream("b", question(), CALL)) as second,
        ):
            await anext(first)
            await anext(second)
            waiting = asyncio.create_task(shared.answer("c"))
            await until(lambda: "unloading once 1" in shared.provider._models["a"].message)
            # Whoever asks for the one that is going waits, instead of keeping it for ever.
            late = asyncio.create_task(shared.answer("a"))
            await asyncio.sleep(0.02)
            assert not late.done()
            assert not waiting.done()
            async for _ in first:
                pass
            await first.aclose()
            assert (await waiting).usage.output_tokens == 3
            async for _ in second:
                pass
        assert (await late).usage.output_tokens == 3


async def test_waiting_for_those_in_use_ends_and_is_tried_again() -> None:
    async with sharing(patience=0.05) as shared:
        async with (
            aclosing(shared.provider.stream("a", question(), CALL)) as first,
            aclosing(shared.provider.stream("b", question(), CALL)) as second,
        ):
            await anext(first)
            await anext(second)
            with pytest.raises(Failure) as caught:
                await shared.answer("c")
            failure = caught.value
            assert failure.reason == v1.ERROR_REASON_SIDECAR_UNAVAILABLE
            assert failure.retry_delay
            assert failure.metadata["model"] == "local/c"
            for words in ("too little memory for c", "a has", "b has", "in use"):
                assert words in failure.message
            model = await shared.provider.get_model("c", CALL)
            assert (model.state, model.state_message) == (v1.MODEL_STATE_UNLOADED, failure.message)
            # They stay, and can be asked.
            assert (await shared.provider.get_model("a", CALL)).state_message == ""
            await shared.answer("a")
            with pytest.raises(Failure):
                async with aclosing(shared.provider.load_model("c", CALL)) as steps:
                    async for _ in steps:
                        pass
        await shared.answer("c")
        assert shared.health == [True]


async def test_closing_does_not_wait_for_memory() -> None:
    async with (
        sharing() as shared,
        aclosing(shared.provider.stream("a", question(90), CALL)) as first,
    ):
        await anext(first)
        await shared.answer("b")
        async with aclosing(shared.provider.stream("b", question(90), CALL)) as second:
            await anext(second)
            waiting = asyncio.create_task(shared.answer("c"))
            await until(lambda: "unloading once" in shared.provider._models["a"].message)
            await shared.provider.close()
            with pytest.raises(Failure) as caught:
                await waiting
            assert caught.value.reason == v1.ERROR_REASON_SHUTTING_DOWN


async def test_an_idle_model_is_unloaded_but_not_one_in_use() -> None:
    async with sharing(keep_alive=0.05) as shared:
        async with aclosing(shared.provider.stream("a", question(), CALL)) as answer:
            await anext(answer)
            await asyncio.sleep(0.2)
            assert (await shared.states())["a"] == "READY"
        await shared.unloaded("a")
        assert shared.budget.claimed == {}
        await shared.answer("a")
        await shared.unloaded("a")
        assert shared.health == [True]


async def test_keep_alive_of_nothing_unloads_after_each_answer() -> None:
    async with sharing(keep_alive=0) as shared:
        await shared.unloaded("a")
        assert (await shared.answer("a")).usage.output_tokens == 3
        await shared.unloaded("a")
