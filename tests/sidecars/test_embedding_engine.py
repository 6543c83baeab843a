"""The engine of vectors: what is computed together, whose turn it is, and whose failure it was."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.backend import OutOfMemory
from penstock_server.local.embedding import EmbeddingEngine, Request, Text, Vector, next_batch
from penstock_server.local.engine import Loaded, Report, Vectors
from penstock_server.local.tokenizer import Tokenizer

from tests.sidecars.counting import PATIENCE
from tests.sidecars.vocabularies import chat_tokenizer

BROKEN = 99
"""A token that no vector can be made of."""


class MirrorBackend:
    """A text's vector is its tokens. Computes a batch whenever a test allows one."""

    def __init__(self, room: int = 1_000) -> None:
        self.batches: list[list[list[int]]] = []
        self.threads: set[int] = set()
        self.unloaded = threading.Event()
        self.entered = threading.Semaphore(0)
        self._room = room
        self._steps = threading.Semaphore(1)  # the warm-up

    def allow(self, batches: int = 1_000) -> None:
        self._steps.release(batches)

    async def computing(self) -> None:
        """Wait until a batch is being computed."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE)

    def load(self, report: Report) -> Loaded:
        return Loaded(Tokenizer(chat_tokenizer()), vectors=Vectors(4, step_tokens=40, step_texts=8))

    def embed(self, texts: Sequence[Text]) -> Sequence[Vector]:
        self.threads.add(threading.get_ident())
        self.batches.append([list(text.tokens) for text in texts])
        self.entered.release()
        assert self._steps.acquire(timeout=PATIENCE)
        if len(texts) > self._room:
            raise OutOfMemory
        if any(BROKEN in text.tokens for text in texts):
            raise ZeroDivisionError("cannot be mirrored")
        return [[float(token) for token in text.tokens] for text in texts]

    def unload(self) -> None:
        self.unloaded.set()


@asynccontextmanager
async def running(
    room: int = 1_000, waiting: int = 3
) -> AsyncIterator[tuple[EmbeddingEngine, MirrorBackend]]:
    backend = MirrorBackend(room)
    engine = EmbeddingEngine(backend, "mirror", max_waiting=waiting)
    async with asyncio.timeout(PATIENCE):
        await engine.load(lambda progress, stage: None)
        await backend.computing()
        backend.batches.clear()
        try:
            yield engine, backend
        finally:
            backend.allow()
            await engine.close()
            assert backend.unloaded.is_set()


def texts(*tokens: list[int]) -> list[Text]:
    return [Text(each) for each in tokens]


def requests(*lengths: list[int]) -> list[Request]:
    loop = asyncio.get_event_loop()
    return [Request(texts(*([7] * n for n in each)), loop.create_future()) for each in lengths]


async def test_texts_of_about_the_same_length_are_computed_together() -> None:
    [only] = requests([1, 30, 3, 28, 2, 9])
    assert next_batch([only], 100, 8) == [(only, 1), (only, 3)]
    assert next_batch([only], 100, 8) == [(only, 5)]
    assert next_batch([only], 100, 8) == [(only, 2), (only, 4)]
    assert next_batch([only], 100, 8) == [(only, 0)]
    assert only.longest == 0


async def test_a_batch_is_bounded_by_tokens_with_padding_and_by_texts() -> None:
    [many] = requests([10] * 9)
    assert len(next_batch([many], 40, 8)) == 4
    assert len(next_batch([many], 400, 3)) == 3
    assert len(next_batch([many], 5, 8)) == 1  # too long for any batch: alone


async def test_a_flood_leaves_room_for_others_in_every_batch() -> None:
    flood, small, tiny = requests([10] * 1_000, [8, 9], [3])
    batch = next_batch([flood, small, tiny], 80, 8)
    assert [request for request, _ in batch].count(small) == 2
    assert tiny not in {request for request, _ in batch}  # would be mostly padding
    assert next_batch([tiny, flood, small], 80, 8)[0] == (tiny, 0)  # when it is its turn


async def test_callers_share_batches_and_get_their_own_in_their_order() -> None:
    async with running() as (engine, backend):
        first = asyncio.create_task(engine.embed(texts([1])))
        await backend.computing()
        second = asyncio.create_task(engine.embed(texts([2], [3, 3, 3, 3], [4])))
        third = asyncio.create_task(engine.embed(texts([5, 5, 5], [6])))
        await asyncio.sleep(0)
        assert engine.stats().running_requests == 1
        backend.allow()
        assert [await first, await second, await third] == [
            [[1]],
            [[2], [3, 3, 3, 3], [4]],
            [[5, 5, 5], [6]],
        ]
        assert backend.batches[1] == [[3, 3, 3, 3], [5, 5, 5]]
        assert sorted(backend.batches[2]) == [[2], [4], [6]]
        assert len(backend.threads) == 1
        assert threading.get_ident() not in backend.threads
        stats = engine.stats()
        assert (stats.running_requests, stats.waiting_requests) == (0, 0)
        assert stats.prompt_tokens_computed == 1 + 1 + 4 + 1 + 3 + 1


async def test_a_failure_is_its_texts_own() -> None:
    async with running() as (engine, backend):
        first = asyncio.create_task(engine.embed(texts([1])))
        await backend.computing()
        good = asyncio.create_task(engine.embed(texts([2], [3])))
        bad = asyncio.create_task(engine.embed(texts([4], [BROKEN], [5])))
        await asyncio.sleep(0)
        backend.allow()
        assert await first == [[1]]
        assert await good == [[2], [3]]
        with pytest.raises(Failure, match="cannot be mirrored") as caught:
            await bad
        assert caught.value.reason == v1.ERROR_REASON_ENGINE_FAILURE
        assert await engine.embed(texts([6])) == [[6]]


async def test_what_does_not_fit_into_memory_together_is_computed_in_parts() -> None:
    async with running(room=2) as (engine, backend):
        backend.allow()
        assert await engine.embed(texts(*([n] for n in range(1, 8)))) == [[n] for n in range(1, 8)]


async def test_who_goes_is_not_computed_any_further() -> None:
    async with running() as (engine, backend):
        many = texts(*([7] * 10 for _ in range(40)))
        asking = asyncio.ensure_future(engine.embed(many))
        await backend.computing()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        backend.allow()
        assert await engine.embed(texts([1])) == [[1]]
        assert len(backend.batches) == 2
        assert engine.stats().waiting_requests == 0


async def test_too_many_are_told_to_come_back() -> None:
    async with running(waiting=2) as (engine, backend):
        first = asyncio.create_task(engine.embed(texts([1])))
        await backend.computing()
        waiting = [asyncio.create_task(engine.embed(texts([n]))) for n in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(Failure) as caught:
            await engine.embed(texts([4]))
        assert caught.value.reason == v1.ERROR_REASON_OVERLOADED
        assert caught.value.retry_delay
        backend.allow()
        assert [await first, *[await task for task in waiting]] == [[[1]], [[2]], [[3]]]


async def test_closing_tells_who_waits() -> None:
    async with running() as (engine, backend):
        first = asyncio.create_task(engine.embed(texts([1])))
        await backend.computing()
        second = asyncio.create_task(engine.embed(texts([2])))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        backend.allow()
        await closing
        assert await first == [[1]]  # it was being computed
        for ask in (second, engine.embed(texts([3]))):
            with pytest.raises(Failure) as caught:
                await ask
            assert caught.value.reason == v1.ERROR_REASON_SHUTTING_DOWN
