"""The engine: batches, order, bounds, cancelling, failures, and the end of it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading

import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.batching import BatchEngine
from penstock_server.local.job import CONTEXT_FULL, Answer, Chunk, Courier, Job

from tests.sidecars.counting import (
    BROKEN,
    FATAL,
    PATIENCE,
    REFUSED,
    WARM_UP,
    CountingBackend,
    job,
    running,
    whole,
)


async def test_an_answer_is_computed_on_the_one_thread_that_loaded() -> None:
    backend = CountingBackend()
    backend.allow_all()
    async with running(backend) as engine:
        text, tokens, finish = await whole(engine.generate(job(10)))
    assert (text, tokens) == ("11 12 13 ", 3)
    assert (finish.reason, finish.word) == (
        v1.FINISH_REASON_MAX_OUTPUT_TOKENS,
        "max_output_tokens",
    )
    assert backend.threads.isdisjoint({threading.get_ident()})
    assert len(backend.threads) == 1
    assert backend.unloaded.is_set()


async def test_why_an_answer_ends() -> None:
    backend = CountingBackend()
    backend.allow_all()
    async with running(backend) as engine:
        _, _, full = await whole(engine.generate(job(10, at_limit=CONTEXT_FULL)))
        text, tokens, stopped = await whole(engine.generate(job(10, 9, stop=["12", "99"])))
    assert full.reason == v1.FINISH_REASON_CONTEXT_LENGTH
    assert (text, tokens, stopped.stop) == ("11 ", 2, "12")
    assert stopped.reason == v1.FINISH_REASON_STOP


async def test_jobs_run_in_the_order_of_asking() -> None:
    backend = CountingBackend()
    backend.allow_all()
    async with running(backend) as engine:
        answers = [engine.generate(job(n * 10)) for n in range(1, 21)]
        texts = await asyncio.gather(*map(whole, answers))
    assert [text.split()[0] for text, _, _ in texts] == [str(n * 10 + 1) for n in range(1, 21)]
    assert backend.began[1:] == [n * 10 for n in range(1, 21)]


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    backend = CountingBackend()
    async with running(backend, max_waiting=2) as engine:
        first = engine.generate(job(10))
        backend.allow(1)
        await backend.reached(1)
        await backend.waits()  # so that it no longer waits
        waiting = [engine.generate(job(20)), engine.generate(job(30))]
        with pytest.raises(Failure) as caught:
            engine.generate(job(40))
        assert caught.value.reason == v1.ERROR_REASON_OVERLOADED
        assert caught.value.retry_delay is not None
        assert caught.value.retry_delay > 0
        assert (engine.stats().running_requests, engine.stats().waiting_requests) == (1, 2)
        await waiting[0].aclose()  # frees its place at once
        last = engine.generate(job(50))
        backend.allow_all()
        for answer in (first, waiting[1], last):
            await whole(answer)
    assert backend.began[1:] == [10, 30, 50]


async def test_a_job_cancelled_while_it_waits_is_never_run() -> None:
    backend = CountingBackend()
    async with running(backend) as engine:
        first = engine.generate(job(10))
        second = engine.generate(job(20))
        await second.aclose()
        await second.aclose()  # twice is fine
        backend.allow_all()
        await whole(first)
    assert backend.began[1:] == [10]


async def test_a_job_cancelled_while_it_runs_ends_at_the_next_token() -> None:
    backend = CountingBackend()
    async with running(backend) as engine:
        answer = engine.generate(job(10, 1_000))
        backend.allow(5)
        await backend.reached(5)
        await answer.aclose()
        after = engine.generate(job(500))
        backend.allow_all()
        await whole(after)
        stats = engine.stats()
    spent = [token for token in backend.spent if token < 500]
    assert len(spent) <= 6, "more than one token was computed after the cancel"
    # Those that nobody waited for are counted, too.
    assert stats.output_tokens_computed == len(spent) + 3
    assert stats.prompt_tokens_computed == 6


async def test_a_cancelled_reader_cancels_its_job() -> None:
    backend = CountingBackend()
    async with running(backend) as engine:
        reader = asyncio.create_task(whole(engine.generate(job(10, 1_000))))
        backend.allow(2)
        await backend.reached(2)
        await backend.waits()  # in the step that is the last one for it
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        backend.allow_all()
        assert (await whole(engine.generate(job(600))))[1] == 3
    # The step after the second may have begun before the reader went.
    assert len(backend.spent) in (5, 6)


async def test_failures_stay_with_their_job(caplog: pytest.LogCaptureFixture) -> None:
    backend = CountingBackend()
    backend.allow_all()
    reasons = {
        BROKEN: v1.ERROR_REASON_ENGINE_FAILURE,
        REFUSED: v1.ERROR_REASON_INVALID_REQUEST,
        FATAL: v1.ERROR_REASON_ENGINE_FAILURE,
    }
    async with running(backend) as engine:
        with caplog.at_level(logging.CRITICAL):
            answers = {prompt: engine.generate(job(prompt)) for prompt in reasons}
            good = engine.generate(job(10))
            for prompt, answer in answers.items():
                with pytest.raises(Failure) as caught:
                    await whole(answer)
                assert caught.value.reason == reasons[prompt]
            assert (await whole(good))[0] == "11 12 13 "


async def test_close_fails_what_runs_and_what_waits() -> None:
    backend = CountingBackend()
    async with running(backend) as engine:
        runs = engine.generate(job(10, 1_000))
        waits = engine.generate(job(20))
        backend.allow(1)
        assert (await anext(runs)).text == "11 "
        closing = asyncio.create_task(engine.close())
        with pytest.raises(Failure) as caught:
            await whole(waits)
        assert caught.value.reason == v1.ERROR_REASON_SHUTTING_DOWN
        backend.allow(1)  # the token that it was computing
        with pytest.raises(Failure) as caught:
            await whole(runs)
        assert caught.value.reason == v1.ERROR_REASON_SHUTTING_DOWN
        await closing
        with pytest.raises(Failure) as caught:
            engine.generate(job(30))
        assert caught.value.reason == v1.ERROR_REASON_SHUTTING_DOWN
    assert backend.unloaded.is_set()
    assert 20 not in backend.began


async def test_close_ends_loading() -> None:
    backend = CountingBackend(wait_to_load=True)
    engine = BatchEngine(backend, "counting")
    stages: list[str] = []
    loading = asyncio.create_task(engine.load(lambda progress, stage: stages.append(stage)))
    await asyncio.to_thread(backend.in_load.wait, PATIENCE)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    backend.may_load.set()
    with pytest.raises(Failure) as caught:
        await loading
    assert caught.value.reason == v1.ERROR_REASON_SHUTTING_DOWN
    await closing
    assert stages == ["counting to three"]
    assert backend.unloaded.is_set()


async def test_loading_that_fails() -> None:
    for error, reason in [
        (Failure(v1.ERROR_REASON_MODEL_NOT_FOUND, "gone"), v1.ERROR_REASON_MODEL_NOT_FOUND),
        (RuntimeError("boom"), v1.ERROR_REASON_SIDECAR_UNAVAILABLE),
        (SystemExit(1), v1.ERROR_REASON_SIDECAR_UNAVAILABLE),
    ]:
        backend = CountingBackend(fail_to_load=error)
        engine = BatchEngine(backend, "counting")
        with pytest.raises(Failure) as caught:
            await engine.load(lambda progress, stage: None)
        assert caught.value.reason == reason
        assert str(error) in caught.value.message
        await engine.close()
        assert backend.unloaded.is_set()


async def test_progress_comes_on_the_event_loop_and_a_warm_up_last() -> None:
    backend = CountingBackend()
    heard: list[tuple[float, str, int]] = []
    engine = BatchEngine(backend, "counting")
    loaded = await engine.load(lambda p, stage: heard.append((p, stage, threading.get_ident())))
    assert [stage for _, stage, _ in heard] == ["counting to three", "two", "warming up"]
    assert {thread for *_, thread in heard} == {threading.get_ident()}
    assert len(backend.computed) == WARM_UP
    stats = engine.stats()
    assert (stats.device, stats.dtype) == (loaded.device, loaded.dtype) == ("abacus", "int8")
    assert stats.output_tokens_computed == 0  # the warm-up is nobody's
    await engine.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities on Linux only")
async def test_the_computing_thread_lets_others_go_first() -> None:
    class Curious(CountingBackend):
        niceness: int

        def leave(self, job: Job) -> None:
            self.niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            super().leave(job)

    backend = Curious()
    backend.allow_all()
    async with running(backend) as engine:
        await whole(engine.generate(job(10)))
    assert backend.niceness > os.getpriority(os.PRIO_PROCESS, 0)


async def test_what_has_come_in_since_is_one_chunk() -> None:
    answer = Answer(job(1), lambda answer: None)
    courier = Courier(asyncio.get_running_loop())
    for text in ("a", "b", "c"):
        courier.put(answer, Chunk(text, 1))
        courier.send()  # wakes the loop once: it has not answered the first call yet
    assert await anext(answer) == Chunk("abc", 3)
    courier.put(answer, Chunk("d", 1))
    courier.put(answer, Failure(v1.ERROR_REASON_ENGINE_FAILURE, "oh"))
    courier.send()
    assert await anext(answer) == Chunk("d", 1)  # what came before a failure is delivered first
    with pytest.raises(Failure):
        await anext(answer)
    with pytest.raises(StopAsyncIteration):
        await anext(answer)


def test_a_courier_whose_loop_is_closed_drops_what_it_carries() -> None:
    loop = asyncio.new_event_loop()
    courier = Courier(loop)
    loop.close()
    courier.put(Answer(job(1), lambda answer: None), Chunk("a", 1))
    courier.send()
