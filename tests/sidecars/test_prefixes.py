"""What has been computed is not computed again, and long prompts hold up nobody."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from penstock import v1
from penstock_hf.backend import HFBackend
from penstock_server.local.job import Job

from tests.sidecars import random_models
from tests.sidecars.asking import ask, quiet, running
from tests.sidecars.stepping import Wish, alone, batch_of, figures, load, prompt_of

LONG = 1_500


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prefixes")
    return random_models.save(directory, max_position_embeddings=4_096)


async def test_the_second_turn_of_a_session_computes_only_what_is_new(
    directory: Path, report: Callable[[str], None]
) -> None:
    async with running(directory) as (engine, _):
        history = prompt_of(900, seed=1)
        first = await ask(engine, Wish(history, limit=30))
        turn = [*history, *first.tokens, *prompt_of(20, seed=2)]
        before = engine.stats().prompt_tokens_computed
        second = await ask(engine, Wish(turn, limit=30))
        stats = await quiet(engine)
    assert first.job.cached == 0
    # All but the last token of the first answer, which nothing was computed after.
    assert second.job.cached == len(history) + len(first.tokens) - 1
    computed = stats.prompt_tokens_computed - before
    assert computed == len(turn) - second.job.cached == 21
    assert stats.prompt_tokens_cached == second.job.cached
    fresh = load(directory)
    assert second.tokens == alone(fresh, Wish(turn, limit=30))
    report(f"second turn of {len(turn)} tokens: {computed} computed, {second.job.cached} cached")


def drive(backend: HFBackend, jobs: list[Job], most: int = 10_000) -> None:
    """Step until all of them have ended."""
    left = list(jobs)
    for _ in range(most):
        if not left:
            return
        for outcome in backend.step():
            assert outcome.failure is None
            if outcome.token is None:
                assert backend.join(outcome.job)
            elif outcome.job.accept(outcome.token, outcome.scores).finish is not None:
                backend.leave(outcome.job)
                left.remove(outcome.job)
    raise AssertionError(f"{len(left)} do not end")


def test_callers_that_begin_alike_at_the_same_time_compute_it_once(directory: Path) -> None:
    backend = load(directory, prefill_chunk=64)
    system = prompt_of(400, seed=3)
    wishes = [Wish([*system, *prompt_of(5 + n, seed=10 + n)], limit=8) for n in range(6)]
    expected = [alone(backend, wish) for wish in wishes]
    jobs = [wish.job() for wish in wishes]
    assert all(backend.join(job) for job in jobs)
    drive(backend, jobs)
    assert [job.tokens[len(job.prompt) :] for job in jobs] == expected
    assert [job.cached for job in jobs] == [0, *[400] * 5]


def test_who_follows_goes_on_by_itself_where_its_leader_leaves(directory: Path) -> None:
    backend = load(directory, prefill_chunk=64)
    system = prompt_of(600, seed=4)
    leader, follower = (Wish([*system, token], limit=8).job() for token in (50, 60))
    expected = alone(backend, Wish([*system, 60], limit=8))
    assert backend.join(leader)
    assert backend.join(follower)
    for _ in range(3):
        assert not list(backend.step())
    backend.leave(leader)
    drive(backend, [follower])
    assert follower.tokens[len(follower.prompt) :] == expected
    assert 0 < follower.cached < 600


def test_beginnings_are_kept_within_the_bound(directory: Path) -> None:
    backend = load(directory, cache_memory=1 << 20)
    for seed in range(12):
        drive_one(backend, Wish(prompt_of(300, seed=100 + seed), limit=4))
        stats = figures(backend)
        assert stats.kv_cache_bytes + stats.prefix_cache_bytes <= 1 << 20
    assert stats.kv_cache_bytes == 0
    assert stats.prefix_cache_bytes > 0
    again = Wish(prompt_of(300, seed=111), limit=4).job()
    assert backend.join(again)
    assert again.cached > 290  # the last one is still there
    backend.leave(again)


def drive_one(backend: HFBackend, wish: Wish) -> None:
    job = wish.job()
    assert backend.join(job)
    drive(backend, [job])


def test_where_memory_is_short_rows_are_taken_back_and_answers_are_the_same(
    directory: Path,
) -> None:
    wishes = [
        Wish(
            prompt_of(40, seed=20 + n),
            limit=150,
            sampling=v1.Sampling(temperature=1, top_k=5, seed=n),
        )
        for n in range(6)
    ]
    expected = [alone(load(directory), wish) for wish in wishes]
    backend = load(directory)
    slots = batch_of(backend).slots
    slots.limit = 5 * 256 * slots.token_bytes
    waiting = [wish.job() for wish in wishes]
    jobs, taken_back = list(waiting), 0
    inside: list[Job] = []
    for _ in range(5_000):
        while waiting and backend.join(waiting[0]):
            inside.append(waiting.pop(0))
        for outcome in backend.step():
            assert outcome.failure is None
            if outcome.token is None:
                taken_back += 1
                inside.remove(outcome.job)
                waiting.insert(0, outcome.job)
            elif outcome.job.accept(outcome.token).finish is not None:
                backend.leave(outcome.job)
                inside.remove(outcome.job)
        assert slots.bytes <= slots.limit
        if not inside and not waiting:
            break
    assert taken_back > 0
    assert [job.tokens[len(job.prompt) :] for job in jobs] == expected


@pytest.mark.parametrize("chunk", [64, 4_096])
def test_a_long_prompt_holds_up_nobody_where_it_is_divided(
    chunk: int, directory: Path, report: Callable[[str], None]
) -> None:
    backend = load(directory, prefill_chunk=chunk)
    neighbour = Wish(prompt_of(8, seed=30), limit=500).job()
    assert backend.join(neighbour)
    list(backend.step())
    neighbour.accept(5)
    long = Wish(prompt_of(LONG, seed=31), limit=4).job()
    short = Wish(prompt_of(12, seed=32), limit=4).job()
    assert backend.join(long)
    largest: list[int] = []
    batch = batch_of(backend)
    plan = batch._plan

    def planned():  # type: ignore[no-untyped-def]
        step = plan()
        largest.append(sum(tokens for _, tokens in step.rows))
        return step

    batch._plan = planned  # type: ignore[method-assign]
    came: dict[Job, int] = {}
    assert backend.join(short)
    for step in range(1, 200):
        outcomes = list(backend.step())
        assert neighbour in [outcome.job for outcome in outcomes]  # a token at every step
        for outcome in outcomes:
            came.setdefault(outcome.job, step)
            assert outcome.token is not None
            outcome.job.accept(outcome.token)
        if long in came:
            break
    report(
        f"chunks of {chunk}: the long prompt's first token after {came[long]} steps, the short "
        f"one's after {came[short]}; a step has at most {max(largest)} tokens, usually "
        f"{statistics.median(largest):.0f}"
    )
    assert came[short] <= 3
    if chunk == 64:
        assert max(largest) <= chunk + 2
        assert came[long] >= LONG // chunk
    else:
        assert came[long] == 1  # which is what chunks are there to prevent
