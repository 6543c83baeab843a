"""In a batch whose members come, go and are cancelled at any step, each gets what it gets alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from penstock import v1

from tests.sidecars import random_models
from tests.sidecars.stepping import (
    Course,
    Run,
    Wish,
    alone,
    batch_of,
    greedy_by_generate,
    likeliest,
    load,
    plain_model,
    prompt_of,
    settle,
)

# Short ones, ends of parts (16 tokens), of arenas (64, 128, 256) and one beyond each.
LENGTHS = [1, 2, 15, 16, 17, 31, 33, 48, 62, 63, 64, 65, 100, 127, 128, 150]
LIMITS = [70, 3, 50, 60, 1, 40, 35, 20, 6, 2, 70, 64, 30, 5, 66, 106]

ONE_AT_A_TIME = ["deepseek_v3", "falcon_h1", "lfm2", "mamba", "qwen3_next"]
IN_SLOTS = [name for name in random_models.ARCHITECTURES if name not in ONE_AT_A_TIME]


def staggered(make: Callable[[int], Wish]) -> list[Run]:
    """16 that stay to their end, mixed with 8 that do not, so that gaps open everywhere."""
    order = random.Random(5)
    runs: list[Run] = []
    for number in range(len(LENGTHS)):
        # Eight at the first step, others later: parts stand beside tokens of answers.
        runs.append(Run(make(number), arrives=0 if number % 2 else order.randrange(1, 30)))
    for number in range(4):
        cancelled = Wish(prompt_of(20 + 30 * number, 900 + number), limit=90)
        runs.append(Run(cancelled, arrives=5 * number, cancel_after=1 + 9 * number))
        # Gone with half of its prompt computed.
        unfinished = Wish(prompt_of(150, 950 + number), limit=90)
        runs.append(Run(unfinished, arrives=7 * number, cancel_at=7 * number + 4))
    order.shuffle(runs)
    return runs


def greedy(number: int) -> Wish:
    return Wish(prompt_of(LENGTHS[number], number), LIMITS[number])


def seeded(number: int) -> Wish:
    """Every way of drawing: plain, narrowed, penalised, with log probabilities."""
    sampling = v1.Sampling(temperature=0.9, seed=100 + number)
    if number % 2:
        sampling.top_p = 0.8
    if number % 3 == 0:
        sampling.top_k = 20
    if number % 4 == 1:
        sampling.min_p = 0.05
    if number % 4 == 2:
        sampling.repetition_penalty = 1.3
    if number % 5 == 0:
        sampling.presence_penalty = 0.7
        sampling.frequency_penalty = 0.3
    if number % 5 == 1:
        sampling.logit_bias[7 + number] = 3.0
    logprobs = 3 if number % 4 == 0 else None
    return Wish(prompt_of(LENGTHS[number], number), LIMITS[number], sampling, top_logprobs=logprobs)


@pytest.mark.parametrize("architecture", IN_SLOTS)
def test_greedy_answers_are_those_of_generate_whoever_comes_and_goes(
    architecture: str, tmp_path: Path, report: Callable[[str], None]
) -> None:
    random_models.save(tmp_path, architecture)
    backend = load(tmp_path, prefill_chunk=16)
    model = plain_model(tmp_path)
    course = Course(backend, staggered(greedy)).run()
    stayed = [run for run in course.runs if not run.went]
    varied = set[int]()
    for run in stayed:
        assert run.failure is None
        assert len(run.tokens) == run.wish.limit
        assert run.tokens == likeliest(model, run.wish.prompt, run.tokens), len(run.wish.prompt)
        varied |= set(run.tokens)
    assert len(varied) > 20, "outputs that vary too little to prove anything"
    # generate() itself, and the backend with nobody else in it, for some of them.
    for run in sorted(stayed, key=lambda run: len(run.wish.prompt))[1::6]:
        limit = min(run.wish.limit, 30)
        written = greedy_by_generate(model, run.wish.prompt, limit)
        assert run.tokens[:limit] == written
        assert alone(backend, Wish(run.wish.prompt, limit)) == written
    assert settle(backend)["kv_cache_bytes"] == 0
    report(f"{len(course.runs)} requests, up to {course.most_at_once} at once: the same as alone")
    assert course.most_at_once >= 16


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
def test_seeded_answers_are_the_same_alone_and_beside_others(
    architecture: str, tmp_path: Path
) -> None:
    random_models.save(tmp_path, architecture)
    backend = load(tmp_path, prefill_chunk=16)
    course = Course(backend, staggered(seeded)).run()
    for run in course.runs:
        if not run.went:
            assert run.failure is None
            assert run.tokens == alone(backend, run.wish), run.wish.sampling
            asked = run.wish.top_logprobs is not None
            assert all((scores is not None) == asked for scores in run.scores)


@pytest.mark.parametrize("chunk", [1, 2, 3, 64, 4_096])
def test_how_prompts_are_divided_makes_no_difference(chunk: int, tmp_path: Path) -> None:
    random_models.save(tmp_path, "llama")
    backend = load(tmp_path, prefill_chunk=chunk)
    wishes = [
        Wish(prompt_of(length, length), 12, v1.Sampling(temperature=0.8, seed=length))
        for length in (1, 5, 40, 64, 90)
    ]
    # One after the other: a follower of nobody, and parts of several prompts in one step.
    course = Course(backend, [Run(wish, number) for number, wish in enumerate(wishes)]).run()
    other = load(tmp_path, prefill_chunk=256)
    for run in course.runs:
        assert run.tokens == alone(other, run.wish)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_either_way_of_attention_gives_the_same(attention: str, tmp_path: Path) -> None:
    random_models.save(tmp_path, "qwen3")
    backend = load(tmp_path, prefill_chunk=16, attention=attention)
    assert batch_of(backend).most == 64
    model = plain_model(tmp_path)
    for run in Course(backend, staggered(greedy)).run().runs:
        if not run.went:
            assert run.tokens == likeliest(model, run.wish.prompt, run.tokens)


@pytest.mark.parametrize("architecture", ONE_AT_A_TIME)
def test_what_cannot_be_in_slots_answers_one_after_the_other(
    architecture: str, tmp_path: Path
) -> None:
    random_models.save(tmp_path, architecture)
    backend = load(tmp_path)
    model = plain_model(tmp_path)
    wishes = [Wish(prompt_of(length, length), 12) for length in (1, 9, 40)]
    runs = [Run(wish) for wish in wishes]
    runs.insert(1, Run(Wish(prompt_of(30, 4), 60), cancel_after=5))
    course = Course(backend, runs).run()
    assert course.most_at_once == 1
    for run in runs:
        if not run.went:
            assert run.tokens == greedy_by_generate(model, run.wish.prompt, 12)
            assert run.tokens == alone(backend, run.wish)
    drawn = [
        Wish(prompt_of(9, 9), 12, v1.Sampling(temperature=0.9, seed=seed, top_k=30))
        for seed in (1, 2, 1)
    ]
    first, second, third = map(partial(alone, backend), drawn)
    assert first == third != second


def test_a_window_longer_than_what_was_tried_at_the_start_is_kept(tmp_path: Path) -> None:
    # Loading computes a short sample both ways; a window of 100 tokens does not show in it.
    random_models.save(tmp_path, "mistral", sliding_window=100)
    backend = load(tmp_path, prefill_chunk=32)
    model = plain_model(tmp_path)
    runs = [Run(Wish(prompt_of(length, length), 40), arrives=length % 7) for length in (90, 150)]
    for run in Course(backend, runs).run().runs:
        assert run.tokens == greedy_by_generate(model, run.wish.prompt, 40)


def test_an_answer_may_fill_the_whole_context(tmp_path: Path) -> None:
    random_models.save(tmp_path, "llama")
    backend = load(tmp_path, prefill_chunk=16)
    model = plain_model(tmp_path)
    wishes = [Wish(prompt_of(1, 3), random_models.CONTEXT - 1), Wish(prompt_of(255, 4), 1)]
    for run in Course(backend, [Run(wish) for wish in wishes]).run().runs:
        assert len(run.wish.prompt) + len(run.tokens) == random_models.CONTEXT
        assert run.tokens == likeliest(model, run.wish.prompt, run.tokens)
