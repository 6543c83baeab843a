"""How tokens are drawn: as transformers would, each row by itself, and by its own numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from penstock import v1
from penstock_hf.sampling import Draw, _noise, draw
from penstock_server.local.job import Job
from penstock_server.local.sampling import Defaults
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from tests.sidecars.counting import number_text
from tests.sidecars.noise import IDS, KEY, noise

VOCABULARY = 60
DRAWS = 4_000
PLAIN = Defaults()
SCORES = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3)) * 2


def row(defaults: Defaults = PLAIN, prompt: Sequence[int] = (1,), **sampling: Any) -> Draw:
    bias = sampling.pop("logit_bias", {})
    job = Job(prompt, number_text(), v1.Sampling(**sampling, logit_bias=bias), limit=10_000)
    return Draw(job, defaults)


def tokens(scores: torch.Tensor, one: Draw, count: int) -> list[int]:
    """So many tokens of one row, from the same scores each time."""
    found = []
    for _ in range(count):
        [drawn] = draw(scores[None].clone(), [one])
        assert drawn.failure is None
        found.append(drawn.token)
        one.job.accept(drawn.token)
    return found


def shares(scores: torch.Tensor, *warpers: LogitsProcessor) -> torch.Tensor:
    """The probabilities that transformers would draw by."""
    ids = torch.tensor([[1]])
    warped = scores[None].clone()
    for warp in warpers:
        warped = warp(ids, warped)
    return warped[0].double().softmax(-1)


CASES: dict[str, tuple[dict[str, Any], Defaults, list[Any]]] = {
    "everything": ({"temperature": 1}, PLAIN, []),
    "hot": ({"temperature": 1.7}, PLAIN, [TemperatureLogitsWarper(1.7)]),
    "top_k": ({"temperature": 1, "top_k": 5}, PLAIN, [TopKLogitsWarper(5)]),
    "top_p": ({"temperature": 1, "top_p": 0.8}, PLAIN, [TopPLogitsWarper(0.8)]),
    "min_p": ({"temperature": 1, "min_p": 0.1}, PLAIN, [MinPLogitsWarper(0.1)]),
    "all three": (
        {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
        PLAIN,
        [
            TemperatureLogitsWarper(1.3),
            TopKLogitsWarper(12),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.05),
        ],
    ),
    "the model's own": (
        {},
        Defaults(temperature=0.8, top_k=7),
        [TemperatureLogitsWarper(0.8), TopKLogitsWarper(7)],
    ),
    "typical": ({"temperature": 1}, Defaults(typical_p=0.6), [TypicalLogitsWarper(0.6)]),
    "epsilon": ({"temperature": 1}, Defaults(epsilon_cutoff=0.02), [EpsilonLogitsWarper(0.02)]),
    "eta": ({"temperature": 1}, Defaults(eta_cutoff=0.02), [EtaLogitsWarper(0.02)]),
    "typical of what top_k left": (
        {"temperature": 1, "top_k": 10},
        Defaults(typical_p=0.6),
        [TopKLogitsWarper(10), TypicalLogitsWarper(0.6)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_distribution_is_that_of_transformers(name: str) -> None:
    sampling, defaults, warpers = CASES[name]
    expected = shares(SCORES, *warpers)
    found = tokens(SCORES, row(defaults, seed=11, **sampling), DRAWS)
    counts = torch.bincount(torch.tensor(found), minlength=VOCABULARY).double()
    assert not counts[expected == 0].any(), "a token was drawn that is not to be had"
    likely = expected * DRAWS >= 5
    difference = counts[likely] - expected[likely] * DRAWS
    chi_square = float((difference**2 / (expected[likely] * DRAWS)).sum())
    freedom = max(1, int(likely.sum()) - 1)
    # Five standard deviations: with this seed it holds or it does not.
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 5


def test_greedy_is_the_likeliest_and_uses_no_numbers() -> None:
    assert set(tokens(SCORES, row(temperature=0), 5)) == {int(SCORES.argmax())}
    assert set(tokens(SCORES, row(), 5)) == {int(SCORES.argmax())}  # the default of a plain model


def test_a_rows_draws_do_not_depend_on_who_is_beside_it() -> None:
    def one() -> Draw:
        return row(seed=5, temperature=1, top_p=0.95)

    alone = tokens(SCORES, one(), 50)
    for others in (4, 15):
        mine = one()
        beside = [row(seed=n, temperature=0.5 + n / 10, top_k=3 * n) for n in range(1, others + 1)]
        together = []
        for _ in range(50):
            drawn = draw(SCORES.repeat(others + 1, 1), [*beside[:2], mine, *beside[2:]])
            together.append(drawn[2].token)
            for one_of_them, its in zip([*beside[:2], mine, *beside[2:]], drawn, strict=True):
                one_of_them.job.accept(its.token)
        assert together == alone
    assert tokens(SCORES, row(seed=6, temperature=1, top_p=0.95), 50) != alone


def test_the_noise_is_that_of_the_other_sidecar() -> None:
    found = _noise(KEY, torch.tensor(IDS, dtype=torch.int32))
    assert found.tolist() == pytest.approx(noise(), rel=1e-5, abs=1e-6)


def test_a_rounding_error_hardly_ever_changes_what_is_drawn(
    report: Callable[[str], None],
) -> None:
    # As many tokens about as likely as each other as there can be: by cumulated probabilities,
    # one draw in two hundred would change.
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(32_000, generator=generator) / 10
    changed = total = 0
    for place in range(40):
        rows = [row(seed=seed, temperature=1, **FILTERS[seed % 3]) for seed in range(60)]
        for one in rows:
            one.job.written = place
        error = torch.randn(len(rows), 32_000, generator=generator) * 1e-6
        exact = draw(scores.repeat(len(rows), 1), rows)
        rounded = draw(scores + error, rows)
        changed += sum(a.token != b.token for a, b in zip(exact, rounded, strict=True))
        total += len(rows)
    report(f"errors of 1e-6 changed {changed} of {total:,} draws from 32,000 tokens")
    assert changed <= 1


FILTERS: Sequence[dict[str, Any]] = ({}, {"top_k": 1_000}, {"top_p": 0.9})


# Borders between pairs: within one, the last digit does decide which of the two is out.
@pytest.mark.parametrize("wish", [{"top_k": 8}, {"top_p": 0.93}, {"min_p": 0.01}, {}])
def test_the_last_digit_of_equal_scores_does_not_decide(wish: dict[str, Any]) -> None:
    # All in pairs that are as likely as each other, but for what a sum's order may change.
    pairs = torch.linspace(3, 0, 10).repeat_interleave(2)
    nudge = torch.tensor([2e-6, 0.0]).repeat(10)
    one, other = (
        tokens(pairs + by, row(temperature=1, seed=5, **wish), 500) for by in (nudge, nudge.flip(0))
    )
    assert len(set(one)) > 4
    assert one == other


def test_penalties_and_biases_change_scores_as_defined() -> None:
    prompt = [3, 4, 4]
    one = row(
        prompt=prompt,
        temperature=0,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={9: 2.0},
    )
    one.job.tokens += [7, 7, 8]  # what has been written
    changed = SCORES.clone()
    one.edit(changed)
    penalty = RepetitionPenaltyLogitsProcessor(1.5)
    expected = penalty(torch.tensor([[*prompt, 7, 7, 8]]), SCORES[None].clone())[0]
    expected[7] -= 0.5 + 2 * 0.25
    expected[8] -= 0.5 + 0.25
    expected[9] += 2.0
    torch.testing.assert_close(changed, expected)


@pytest.mark.parametrize("penalty", [5e-324, 1e-40, 1e-6])
@pytest.mark.parametrize("temperature", [0, 1e-3, 1])
def test_the_least_penalty_leaves_numbers(penalty: float, temperature: float) -> None:
    one = row(prompt=range(VOCABULARY), temperature=temperature, repetition_penalty=penalty)
    best = int(SCORES.argmax())
    assert tokens(SCORES, one, 3) == [best] * 3


def test_a_row_of_no_numbers_fails_alone() -> None:
    scores = SCORES.repeat(4, 1)
    scores[1, 7] = math.nan
    scores[2, 7] = math.inf
    rows = [row(seed=n, temperature=1) for n in range(4)]
    drawn = draw(scores, rows)
    assert [one.failure is None for one in drawn] == [True, False, False, True]
    assert drawn[1].failure is not None
    assert "no finite scores" in drawn[1].failure.message
    expected = [tokens(SCORES, row(seed=n, temperature=1), 1)[0] for n in (0, 3)]
    assert [drawn[0].token, drawn[3].token] == expected


class Only:
    """A constraint that allows some tokens."""

    finished = False

    def __init__(self, *allowed: int) -> None:
        self._allowed = allowed

    def fill(self, row: Any) -> bool:
        row[:] = 0
        for token in self._allowed:
            row[token // 32] |= np.uint32(1 << token % 32).astype(np.int32)
        return True

    def accept(self, token: int) -> None:
        pass


def constrained(*allowed: int, **sampling: Any) -> Draw:
    job = Job([1], number_text(), v1.Sampling(**sampling), limit=1_000, constraint=Only(*allowed))
    return Draw(job, PLAIN)


def test_what_a_constraint_forbids_is_never_drawn() -> None:
    assert set(tokens(SCORES, constrained(2, 31, 32, 59, seed=1, temperature=2), 300)) == {
        *(2, 31, 32, 59)
    }
    best = max((2, 31, 59), key=lambda token: float(SCORES[token]))
    assert tokens(SCORES, constrained(2, 31, 59, temperature=0), 1) == [best]


def test_a_constraint_that_allows_nothing_fails_alone() -> None:
    drawn = draw(SCORES.repeat(2, 1), [constrained(), row(temperature=0)])
    assert drawn[0].failure is not None
    assert drawn[1].token == int(SCORES.argmax())


def test_log_probabilities_are_the_models_own() -> None:
    job = Job(
        [1], number_text(), v1.Sampling(temperature=0, logit_bias={9: 99}), limit=9, top_logprobs=3
    )
    other = row(temperature=0)
    [drawn, plain] = draw(SCORES.repeat(2, 1), [Draw(job, PLAIN), other])
    raw = SCORES.log_softmax(-1)
    assert drawn.token == 9
    assert plain.scores is None
    assert drawn.scores is not None
    assert drawn.scores.logprob == pytest.approx(float(raw[9]), abs=1e-5)
    values, ids = raw.topk(3)
    assert [token for token, _ in drawn.scores.top] == ids.tolist()
    assert [its for _, its in drawn.scores.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_top_p_of_a_flat_large_vocabulary_needs_more_than_the_likeliest() -> None:
    scores = torch.randn(5_000, generator=torch.Generator().manual_seed(1)) / 100
    found = set(tokens(scores, row(seed=1, temperature=1, top_p=0.9), 300))
    order = scores.argsort(descending=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(5_000)
    places = place[torch.tensor(sorted(found))]
    allowed = int((shares(scores, TopPLogitsWarper(0.9)) > 0).sum())
    assert 4_000 < allowed < 5_000
    assert int(places.max()) < allowed
    assert int((places > 1_024).sum()) > 100


def test_half_precision_scores_are_drawn_in_single() -> None:
    scores = SCORES.to(torch.bfloat16)
    assert tokens(scores, row(seed=4, temperature=1), 40) == tokens(
        scores.float(), row(seed=4, temperature=1), 40
    )
