"""On a GPU: the same answers as alone there, and half precision that runs at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from penstock import v1

from tests.sidecars import random_models
from tests.sidecars.stepping import (
    Course,
    Run,
    Wish,
    alone,
    figures,
    likeliest,
    load,
    plain_model,
    prompt_of,
    settle,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

LENGTHS = [1, 15, 16, 17, 33, 63, 64, 65, 100, 127, 128, 150]


def runs(sampling: Callable[[int], v1.Sampling]) -> list[Run]:
    """They come one after the other, and every fourth one goes before its end."""
    return [
        Run(
            Wish(prompt_of(length, number), 30 + 5 * (number % 5), sampling(number)),
            arrives=2 * number,
            cancel_after=9 if number % 4 == 3 else None,
        )
        for number, length in enumerate(LENGTHS)
    ]


def greedy(number: int) -> v1.Sampling:
    return v1.Sampling(temperature=0)


def seeded(number: int) -> v1.Sampling:
    if number % 2:
        return v1.Sampling(temperature=0.9, seed=number, top_p=0.8)
    return v1.Sampling(temperature=0.9, seed=number, top_k=20, repetition_penalty=1.2)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gpt2", "qwen3_moe"])
def test_greedy_answers_in_single_precision_are_those_of_the_cpu(
    architecture: str, tmp_path: Path
) -> None:
    random_models.save(tmp_path, architecture)
    backend = load(tmp_path, device="cuda", dtype="float32", prefill_chunk=16)
    model = plain_model(tmp_path)
    for run in Course(backend, runs(greedy)).run().runs:
        assert run.failure is None
        assert run.tokens == likeliest(model, run.wish.prompt, run.tokens)
    assert settle(backend)["kv_cache_bytes"] == 0
    backend.unload()


def test_seeded_answers_in_single_precision_are_the_same_alone(tmp_path: Path) -> None:
    random_models.save(tmp_path, "llama")
    backend = load(tmp_path, device="cuda", dtype="float32", prefill_chunk=16)
    for run in Course(backend, runs(seeded)).run().runs:
        assert run.failure is None
        if not run.went:
            assert run.tokens == alone(backend, run.wish)
    backend.unload()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_answers_in_half_precision_come_to_their_end(
    attention: str, tmp_path: Path, report: Callable[[str], None]
) -> None:
    random_models.save(tmp_path, "llama", initializer_range=0.1)
    backend = load(tmp_path, device="cuda", dtype="bfloat16", attention=attention)
    course = Course(backend, runs(seeded)).run()
    for run in course.runs:
        assert run.failure is None
        assert len(run.tokens) == (run.cancel_after or run.wish.limit)
    report(f"{torch.cuda.get_device_name()}, bfloat16, {attention}: {course.step} steps")
    assert figures(backend).kv_cache_bytes == 0
    backend.unload()
