"""Many at once: joining and leaving at every step, sharing, failing alone, and coming to rest."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.backend import OutOfMemory
from penstock_server.local.batching import BatchEngine
from penstock_server.local.job import Answer, Chunk

from tests.sidecars.counting import (
    BROKEN,
    FATAL,
    LATE,
    PATIENCE,
    REFUSED,
    CountingBackend,
    job,
    running,
    whole,
)


def counted(prompt: int, tokens: int) -> str:
    """The text of an answer that nothing has disturbed."""
    return "".join(f"{prompt + n} " for n in range(1, tokens + 1))


async def failure_of(answer: Answer) -> Failure:
    with pytest.raises(Failure) as caught:
        await whole(answer)
    return caught.value


def at_rest(engine: BatchEngine) -> bool:
    stats = engine.stats()
    return (stats.running_requests, stats.waiting_requests) == (0, 0)


async def all_inside(
    engine: BatchEngine, backend: CountingBackend, *prompts: int, limit: int = 1_000
) -> list[Answer]:
    """Answers of which all are in the step that waits to be allowed; the first has a token."""
    first = engine.generate(job(prompts[0], limit))
    await backend.waits_in_a_step(prompts[0])
    others = [engine.generate(job(prompt, limit)) for prompt in prompts[1:]]
    backend.allow(1)
    await backend.waits_in_a_step(*prompts)
    return [first, *others]


# Joining, leaving, delivering.


async def test_jobs_join_and_leave_the_running_batch_at_every_step() -> None:
    backend = CountingBackend(capacity=3)
    async with running(backend) as engine:
        first = engine.generate(job(10, 5))
        await backend.waits_in_a_step(10)
        others = [engine.generate(job(20, 2)), engine.generate(job(30, 1))]
        late = engine.generate(job(40, 2))
        backend.allow_all()
        answers = [await whole(each) for each in (first, *others, late)]
    assert backend.steps == [
        {10: 11},
        {10: 12, 20: 21, 30: 31},
        {10: 13, 20: 22, 40: 41},  # 30's place was free at the very next step
        {10: 14, 40: 42},
        {10: 15},
    ]
    assert [text for text, _, _ in answers] == [
        counted(10, 5),
        counted(20, 2),
        counted(30, 1),
        counted(40, 2),
    ]
    assert backend.left[1:] == [30, 20, 40, 10]
    assert backend.inside == []


@contextmanager
def counting_wake_ups(threads: set[int]) -> Iterator[list[str]]:
    """What wakes the running loop up from some threads."""
    loop = asyncio.get_running_loop()
    original = loop.call_soon_threadsafe
    woken: list[str] = []

    def counted_call(callback: Callable[..., object], *arguments: Any, **options: Any) -> Any:
        if threading.get_ident() in threads:
            woken.append(getattr(callback, "__qualname__", repr(callback)))
        return original(callback, *arguments, **options)

    loop.call_soon_threadsafe = counted_call  # type: ignore[method-assign,assignment]
    try:
        yield woken
    finally:
        del loop.call_soon_threadsafe


async def test_one_wake_up_a_step_delivers_everybodys_text() -> None:
    backend = CountingBackend(capacity=16)
    prompts = [100 * n for n in range(1, 9)]
    async with running(backend) as engine:
        answers = await all_inside(engine, backend, *prompts, limit=6)
        assert await anext(answers[0]) == Chunk("101 ", 1)
        readers = [asyncio.create_task(anext(answer)) for answer in answers]
        await asyncio.sleep(0)  # all of them wait now
        with counting_wake_ups(backend.threads) as woken:
            for step in range(1, 5):
                backend.allow(1)
                chunks = await asyncio.gather(*readers)
                # What one step brought for a sequence is one event, and everybody's came.
                assert chunks == [
                    Chunk(f"{prompt + step + (prompt == 100)} ", 1) for prompt in prompts
                ]
                assert len(woken) == step
                readers = [asyncio.create_task(anext(answer)) for answer in answers]
                await asyncio.sleep(0)
        backend.allow_all()
        await asyncio.gather(*readers)


async def test_nothing_wakes_the_loop_for_tokens_that_are_no_text_yet() -> None:
    backend = CountingBackend()
    async with running(backend) as engine:
        answer = engine.generate(job(10, 4, stop=["11 12 13 X"]))
        await backend.waits_in_a_step(10)
        with counting_wake_ups(backend.threads) as woken:
            backend.allow(3)
            await backend.reached(3)
            assert woken == []
            backend.allow(1)
            assert (await whole(answer))[0] == counted(10, 4)
            assert len(woken) == 1


async def test_a_backend_that_is_full_is_asked_again_when_one_has_left() -> None:
    backend = CountingBackend(capacity=2)
    async with running(backend) as engine:
        long = await all_inside(engine, backend, 100, 200)
        waiting = [engine.generate(job(prompt, 1)) for prompt in (300, 400)]
        backend.allow(3)
        await backend.reached(1 + 3 * 2)
        await backend.waits_in_a_step(100, 200)  # so nobody is just being asked about
        assert (engine.stats().running_requests, engine.stats().waiting_requests) == (2, 2)
        assert waiting[0].job.started_at is None, "its waiting is not over"
        backend.capacity = 3
        backend.allow(1)
        await backend.waits_in_a_step(100, 200, 300)
        backend.allow(1)
        assert (await whole(waiting[0]))[0] == counted(300, 1)
        await backend.waits_in_a_step(100, 200, 400)
        backend.allow(1)
        assert (await whole(waiting[1]))[0] == counted(400, 1)
        assert waiting[1].job.queued > waiting[0].job.queued > 0
        backend.allow_all()
        for answer in long:
            await answer.aclose()
    assert backend.began[1:] == [100, 200, 300, 400]


# The queue.


async def test_a_flood_of_one_caller_does_not_hold_up_another() -> None:
    for capacity, turns in ((1, 1), (4, 1)):
        backend = CountingBackend(capacity=capacity)
        async with running(backend) as engine:
            first = engine.generate(job(10, 2, caller="flood"))
            await backend.waits_in_a_step(10)
            flood = [engine.generate(job(10 + n, 2, caller="flood")) for n in range(1, 60)]
            backend.allow(1)
            await backend.reached(1)
            other = engine.generate(job(500, 2, caller="other"))
            backend.allow_all()
            assert (await whole(other))[0] == counted(500, 2)
            before = backend.began[1:].index(500)
            assert before <= capacity * (1 + turns)
            for answer in (first, *flood):
                await whole(answer)
        # Among themselves, one caller's are in the order of asking.
        assert [prompt for prompt in backend.began[1:] if prompt < 500] == list(range(10, 70))


async def test_a_newcomer_displaces_the_greediest_callers_last_one() -> None:
    backend = CountingBackend()
    async with running(backend, max_waiting=3) as engine:
        first = engine.generate(job(10, 1, caller="greedy"))
        await backend.waits_in_a_step(10)
        greedy = [engine.generate(job(10 + n, 1, caller="greedy")) for n in (1, 2, 3)]
        last = asyncio.create_task(failure_of(greedy[-1]))
        modest = engine.generate(job(50, 1, caller="modest"))
        refused = await last
        assert refused.reason == v1.ERROR_REASON_OVERLOADED
        assert refused.retry_delay is not None
        assert refused.retry_delay > 0
        with pytest.raises(Failure) as caught:  # and its caller is refused itself now
            engine.generate(job(14, 1, caller="greedy"))
        assert caught.value.reason == v1.ERROR_REASON_OVERLOADED
        assert engine.stats().waiting_requests == 3
        backend.allow_all()
        for answer in (first, *greedy[:-1], modest):
            await whole(answer)
    assert backend.began[1:] == [10, 50, 11, 12]


# Failures.


async def test_out_of_memory_ends_the_newest_alone_again_and_again() -> None:
    backend = CountingBackend(capacity=8)
    async with running(backend) as engine:
        answers = await all_inside(engine, backend, 100, 200, 300, 400, limit=5)
        backend.memory = 2
        backend.allow(1)
        await backend.waits_in_a_step(100, 200, 300)
        backend.allow(1)
        await backend.waits_in_a_step(100, 200)
        for answer in answers[2:]:
            failure = await failure_of(answer)
            assert failure.reason == v1.ERROR_REASON_ENGINE_FAILURE
            assert "memory" in failure.message
        backend.allow_all()
        for prompt, answer in zip((100, 200), answers, strict=False):
            assert (await whole(answer))[0] == counted(prompt, 5)
        assert backend.written_by(300) == []
        assert at_rest(engine)


async def test_out_of_memory_with_a_single_job_ends_it_and_others_come_after_it() -> None:
    backend = CountingBackend(capacity=8)
    backend.failures = [OutOfMemory("1"), OutOfMemory("2")]
    async with running(backend) as engine:
        for prompt in (10, 20):
            answer = engine.generate(job(prompt))
            backend.allow(1)
            assert (await failure_of(answer)).reason == v1.ERROR_REASON_ENGINE_FAILURE
        answers = await all_inside(engine, backend, 100, 200, 300, limit=3)
        backend.allow_all()
        for prompt, answer in zip((100, 200, 300), answers, strict=True):
            assert (await whole(answer))[0] == counted(prompt, 3)


async def test_one_that_is_too_large_by_itself_says_nothing_of_those_who_wait() -> None:
    backend = CountingBackend(capacity=8)
    async with running(backend) as engine:
        large = engine.generate(job(10))
        await backend.waits_in_a_step(10)
        others = [engine.generate(job(prompt)) for prompt in (100, 200, 300)]
        backend.failures = [OutOfMemory("alone")]
        backend.allow(1)
        assert (await failure_of(large)).reason == v1.ERROR_REASON_ENGINE_FAILURE
        await backend.waits_in_a_step(100, 200, 300)
        backend.allow_all()
        for answer in others:
            await whole(answer)


async def test_out_of_memory_does_not_burn_the_queue() -> None:
    """Those who wait do not all join, fail and make room for the next to fail."""
    backend = CountingBackend(capacity=16)
    backend.memory = 4
    async with running(backend) as engine:
        answers = [engine.generate(job(10, 3))]
        await backend.waits_in_a_step(10)
        answers += [engine.generate(job(10 * n, 3)) for n in range(2, 81)]
        backend.allow_all()
        ends = await asyncio.gather(*map(whole, answers), return_exceptions=True)
        assert at_rest(engine)
    failed = [n for n, end in enumerate(ends, 1) if isinstance(end, Failure)]
    for n, end in enumerate(ends, 1):
        if not isinstance(end, BaseException):
            assert end[0] == counted(10 * n, 3)
    # Twelve at most find out how much there is, then about one in each five is a try for more.
    assert len(failed) <= 12 + 80 / 4


async def test_a_job_that_is_sent_away_joins_again_and_its_answer_is_whole() -> None:
    backend = CountingBackend(capacity=2)
    async with running(backend) as engine:
        answers = await all_inside(engine, backend, 100, 200, limit=6)
        behind = engine.generate(job(300, 1))  # of the same caller, and it comes after them
        backend.allow(1)
        await backend.reached(3)
        await backend.waits_in_a_step(100, 200)
        backend.taken_back = {200}
        backend.allow(1)
        await backend.waits_in_a_step(100, 200)  # it is back
        backend.taken_back = {100, 200}
        backend.allow(1)
        await backend.waits_in_a_step(100, 200)
        assert behind.job.started_at is None
        backend.allow_all()
        for prompt, answer in zip((100, 200), answers, strict=True):
            assert await whole(answer) == (counted(prompt, 6), 6, answer.job.at_limit)
        await whole(behind)
        stats = engine.stats()
    assert backend.began[1:] == [100, 200, 200, 100, 200, 300]
    assert backend.written_by(200) == list(range(201, 207)), "something was computed twice"
    assert stats.prompt_tokens_computed == 9
    assert stats.output_tokens_computed == 13


async def test_a_job_that_was_sent_away_is_not_the_newest_when_memory_runs_out() -> None:
    backend = CountingBackend(capacity=3)
    async with running(backend) as engine:
        answers = await all_inside(engine, backend, 100, 200, limit=4)
        backend.taken_back = {100}
        backend.allow(1)
        await backend.waits_in_a_step(200, 100)
        backend.memory = 1
        backend.allow(1)
        await backend.waits_in_a_step(100)
        await failure_of(answers[1])
        backend.allow_all()
        assert (await whole(answers[0]))[0] == counted(100, 4)


async def test_a_job_that_waits_again_can_be_cancelled_and_is_told_of_the_end() -> None:
    backend = CountingBackend(capacity=3)
    async with running(backend) as engine:
        answers = await all_inside(engine, backend, 100, 200, 300)
        backend.capacity = 1
        backend.taken_back = {200, 300}
        backend.allow(1)
        await backend.waits_in_a_step(100)
        assert engine.stats().waiting_requests == 2
        await answers[1].aclose()
        assert engine.stats().waiting_requests == 1
        closing = asyncio.create_task(engine.close())
        for answer in (answers[2], answers[0]):
            backend.allow(1)
            assert (await failure_of(answer)).reason == v1.ERROR_REASON_SHUTTING_DOWN
        await closing
    assert backend.began[1:] == [100, 200, 300]


async def test_who_is_cancelled_in_the_step_that_sends_it_away_takes_no_place() -> None:
    backend = CountingBackend(capacity=2)
    async with running(backend) as engine:
        answers = await all_inside(engine, backend, 100, 200)
        backend.capacity = 1
        backend.taken_back = {200}
        await answers[1].aclose()  # the step is running
        backend.allow(1)
        await backend.waits_in_a_step(100)
        assert engine.stats().waiting_requests == 0
        await answers[0].aclose()
        backend.allow_all()


async def test_who_has_to_wait_again_while_the_engine_closes_is_told() -> None:
    backend = CountingBackend(capacity=2)
    async with running(backend) as engine:
        answers = await all_inside(engine, backend, 100, 200)
        backend.taken_back = {200}
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)  # it has emptied the queue, and waits for the step
        backend.allow(1)
        for answer in answers:
            assert (await failure_of(answer)).reason == v1.ERROR_REASON_SHUTTING_DOWN
        await closing
    assert at_rest(engine)


@pytest.mark.parametrize("error", [ZeroDivisionError("lost"), SystemExit(1), KeyboardInterrupt()])
async def test_what_a_step_raises_fails_those_in_it_and_the_engine_goes_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    backend = CountingBackend(capacity=2)
    async with running(backend) as engine:
        with caplog.at_level(logging.CRITICAL):
            answers = await all_inside(engine, backend, 100, 200)
            waiting = engine.generate(job(300))
            backend.failures = [error]
            backend.allow(1)
            failures = [await failure_of(answer) for answer in answers]
        assert {failure.reason for failure in failures} == {v1.ERROR_REASON_ENGINE_FAILURE}
        assert failures[0] is not failures[1], "an exception of two tasks"
        backend.allow_all()
        assert (await whole(waiting))[0] == counted(300, 3)
        assert sorted(backend.left[1:]) == [100, 200, 300]
    assert len(backend.threads) == 1


class Bound:
    """A constraint that takes so many tokens, and then raises."""

    finished = False

    def __init__(self, tokens: int, error: BaseException) -> None:
        self.tokens, self.error = tokens, error

    def fill(self, row: object) -> bool:
        return False

    def accept(self, token: int) -> None:
        self.tokens -= 1
        if self.tokens < 0:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        Failure(v1.ERROR_REASON_ENGINE_FAILURE, "not here"),
        ZeroDivisionError("a bug"),
        SystemExit(1),
    ],
)
async def test_failures_at_joining_and_at_a_token_are_their_jobs_alone(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    backend = CountingBackend(capacity=8)
    async with running(backend) as engine:
        with caplog.at_level(logging.CRITICAL):
            first = engine.generate(job(100, 6))
            await backend.waits_in_a_step(100)
            bad = [engine.generate(job(prompt)) for prompt in (BROKEN, REFUSED, FATAL, LATE)]
            bad.append(engine.generate(job(300, 9, constraint=Bound(2, error))))
            good = engine.generate(job(200, 4, constraint=Bound(4, error)))
            backend.allow_all()
            for answer in bad:
                expected = (
                    v1.ERROR_REASON_INVALID_REQUEST
                    if answer.job.prompt[-1] == REFUSED
                    else v1.ERROR_REASON_ENGINE_FAILURE
                )
                assert (await failure_of(answer)).reason == expected
            assert (await whole(first))[0] == counted(100, 6)
            assert (await whole(good))[0] == counted(200, 4)
        assert backend.written_by(300) == [301, 302, 303]
        assert at_rest(engine)
        assert backend.inside == []


async def test_a_backend_without_room_for_the_only_job_fails_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = CountingBackend(capacity=1)
    async with running(backend) as engine:
        backend.capacity = 0
        with caplog.at_level(logging.CRITICAL):
            failure = await failure_of(engine.generate(job(10)))
        assert failure.reason == v1.ERROR_REASON_ENGINE_FAILURE
        assert at_rest(engine)


# Cancelling and the end.


async def test_who_is_cancelled_leaves_at_the_next_step_and_others_do_not_notice() -> None:
    backend = CountingBackend(capacity=3)
    async with running(backend) as engine:
        answers = await all_inside(engine, backend, 100, 200, 300, limit=6)
        backend.allow(2)
        await backend.waits_in_a_step(100, 200, 300)
        await backend.reached(7)
        await answers[1].aclose()
        backend.allow(1)
        await backend.waits_in_a_step(100, 300)
        assert backend.left[1:] == [200]
        assert engine.stats().running_requests == 2
        backend.allow_all()
        for prompt, answer in ((100, answers[0]), (300, answers[2])):
            assert (await whole(answer))[0] == counted(prompt, 6)
    assert len(backend.written_by(200)) == 3  # the step that ran was its last one


async def test_close_tells_everybody() -> None:
    backend = CountingBackend(capacity=4)
    async with running(backend) as engine:
        answers = await all_inside(engine, backend, *range(100, 500, 100))
        answers += [engine.generate(job(500 + n)) for n in range(20)]
        ends = [asyncio.create_task(failure_of(answer)) for answer in answers]
        closing = asyncio.create_task(engine.close())
        await asyncio.wait(ends[4:])  # at once, not at the end of the step
        backend.allow(1)
        reasons = [(await end).reason for end in ends]
        await closing
        assert reasons == [v1.ERROR_REASON_SHUTTING_DOWN] * 24
        assert at_rest(engine)
    assert backend.unloaded.is_set()
    assert sorted(backend.left[1:]) == [100, 200, 300, 400]


@pytest.mark.parametrize("seed", range(4))
async def test_everything_comes_to_rest_after_a_storm(seed: int) -> None:
    """200 jobs of some callers, some cancelled whenever, in a backend that takes places back."""
    chance = random.Random(seed)
    backend = CountingBackend(capacity=8)
    async with running(backend, max_waiting=60) as engine:
        backend.allow_all()
        ends: Counter[str] = Counter()

        async def ask(number: int) -> None:
            caller = f"caller {chance.randrange(5)}"
            limit = chance.randrange(1, 30)
            patience = chance.randrange(1, 40)
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            try:
                answer = engine.generate(job(1_000 * number, limit, caller=caller))
            except Failure as failure:
                ends[failure.reason_name] += 1
                return
            if chance.random() < 0.3:
                backend.taken_back.add(1_000 * number)
            text = ""
            async with aclosing(answer):
                if chance.random() < 0.3:
                    for _ in range(patience):
                        await asyncio.sleep(0)
                    ends["cancelled"] += 1
                    return
                try:
                    async for chunk in answer:
                        text += chunk.text
                except Failure as failure:
                    ends[failure.reason_name + (" after its beginning" if text else "")] += 1
                    return
            assert text == counted(1_000 * number, limit)
            ends["whole"] += 1

        await asyncio.gather(*(ask(number) for number in range(1, 201)))
        assert sum(ends.values()) == 200
        assert set(ends) <= {"whole", "cancelled", "OVERLOADED"}
        assert ends["whole"] > 50, ends
        assert (await whole(engine.generate(job(10))))[0] == counted(10, 3)
        assert at_rest(engine)
        assert not engine._queue._running
        assert backend.inside == []


@pytest.mark.parametrize("seed", range(3))
async def test_nobody_hangs_when_the_engine_closes_in_a_storm(seed: int) -> None:
    chance = random.Random(seed)
    backend = CountingBackend(capacity=4)
    async with running(backend) as engine:
        backend.allow_all()
        answers = [engine.generate(job(1_000 * n, 10_000)) for n in range(1, 31)]
        ends = [asyncio.create_task(failure_of(answer)) for answer in answers]
        backend.taken_back.update(1_000 * chance.randrange(1, 31) for _ in range(5))
        for _ in range(chance.randrange(200)):
            await asyncio.sleep(0)
        await engine.close()
        reasons = {(await end).reason for end in ends}
    assert reasons == {v1.ERROR_REASON_SHUTTING_DOWN}


@pytest.mark.skipif(sys.platform != "linux", reason="threads' clocks can be read on Linux only")
async def test_an_idle_engine_uses_no_cpu() -> None:
    backend = CountingBackend(capacity=4)
    backend.allow_all()
    async with running(backend) as engine:
        await whole(engine.generate(job(10)))
        [thread] = backend.threads
        clock = time.pthread_getcpuclockid(thread)
        before = time.clock_gettime(clock)
        await asyncio.sleep(0.5)
        spent = time.clock_gettime(clock) - before
    assert spent < 0.01, f"{spent * 1000:.1f} ms of CPU in 500 ms of rest"


async def test_who_has_read_the_end_finds_nothing_running() -> None:
    """Also where an earlier delivery is so late that it takes along what is put meanwhile."""
    backend = CountingBackend()
    backend.allow_all()
    async with running(backend) as engine:
        courier = engine._courier
        put = courier.put

        def put_while_delivering(answer: Answer, piece: Chunk | Failure) -> None:
            put(answer, piece)
            asyncio.run_coroutine_threadsafe(deliver(), loop).result(PATIENCE)

        async def deliver() -> None:
            courier._deliver()
            for _ in range(5):  # time enough for whoever reads it
                await asyncio.sleep(0)
            seen.append(at_rest(engine))

        loop, seen = asyncio.get_running_loop(), list[bool]()
        courier.put = put_while_delivering  # type: ignore[method-assign]
        await whole(engine.generate(job(10)))
    assert seen == [False, False, True]


async def test_a_loop_that_is_late_is_woken_once() -> None:
    backend = CountingBackend()
    async with running(backend) as engine:
        answer = engine.generate(job(10, 5))
        await backend.waits_in_a_step(10)
        with counting_wake_ups(backend.threads) as woken:
            backend.allow(5)
            deadline = time.monotonic() + PATIENCE
            # The loop is busy with this, and does not run. Not until the engine is at rest: a job
            # has left a moment before its last text is put to the others'.
            while len(engine._courier._bag) < 5:
                assert time.monotonic() < deadline
            assert await anext(answer) == Chunk(counted(10, 5), 5, answer.job.at_limit)
            assert len(woken) == 1
