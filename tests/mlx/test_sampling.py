"""How tokens are drawn: each setting moves the distribution the way its name says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from penstock import v1
from penstock_mlx.sampling import Draw, Drawn, _noise, draw
from penstock_server.errors import Failure
from penstock_server.local.job import Job
from penstock_server.local.sampling import Defaults

from tests.sidecars.counting import number_text
from tests.sidecars.noise import IDS, KEY, noise

PROMPT = [3, 1]
SCORES = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0]
PLAIN = Defaults(temperature=1.0)
TIMES = 600


def job(sampling: v1.Sampling, written: Sequence[int] = (), **options: Any) -> Job:
    one = Job(PROMPT, number_text(), sampling, limit=99, **options)
    for token in written:
        one.accept(token)
    return one


def drawn(scores: Sequence[float], one: Draw) -> Drawn:
    one.job.written += 1  # as if the one before had been accepted
    return draw(np.array([scores], np.float32), [one])[0]


def shares(
    sampling: v1.Sampling, written: Sequence[int] = (), defaults: Defaults = PLAIN
) -> dict[int, float]:
    """How often each token is taken after `PROMPT` and ``written``; a seed makes it repeat."""
    rows = []
    for seed in range(TIMES):
        seeded = v1.Sampling(seed=seed)
        seeded.MergeFrom(sampling)
        rows.append(Draw(job(seeded, written), defaults))
    tokens = [one.token for one in draw(np.array([SCORES] * TIMES, np.float32), rows)]
    return {token: count / TIMES for token, count in Counter(tokens).items()}


def test_tokens_come_as_often_as_their_probability_says() -> None:
    total = sum(map(math.exp, SCORES))
    found = shares(v1.Sampling())
    for token, score in enumerate(SCORES):
        probability = math.exp(score) / total
        allowed = 4 * math.sqrt(probability / TIMES)  # four standard deviations
        assert found.get(token, 0.0) == pytest.approx(probability, abs=allowed)


def test_temperature() -> None:
    assert set(shares(v1.Sampling(temperature=0))) == {0}
    assert set(shares(v1.Sampling(temperature=1e-9))) == {0}
    cold, hot = (shares(v1.Sampling(temperature=t))[0] for t in (0.3, 2.0))
    assert cold > 0.7 > 0.4 > hot


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (v1.Sampling(top_k=1), {0}),
        (v1.Sampling(top_k=3), {0, 1, 2}),
        (v1.Sampling(top_k=1_000), set(range(8))),
        (v1.Sampling(top_p=0.35), {0}),  # which has 0.40 by itself
        (v1.Sampling(top_p=0.5), {0, 1}),
        (v1.Sampling(top_p=1e-9), {0}),
        (v1.Sampling(top_p=1e-9, temperature=2e-4), {0}),
        (v1.Sampling(top_k=2, top_p=0.5), {0}),  # of the two, the first has 0.62
        (v1.Sampling(min_p=0.5), {0, 1}),  # e^-0.5 = 0.61 of the likeliest, e^-1 = 0.37
        (v1.Sampling(min_p=1), {0}),
        (v1.Sampling(logit_bias={7: 100}), {7}),
        (v1.Sampling(logit_bias={0: -100, 1: -100}), set(range(2, 8))),
    ],
)
def test_what_can_be_drawn(sampling: v1.Sampling, possible: set[int]) -> None:
    found = set(shares(sampling))
    assert found <= possible
    assert found | {7} == possible | {7}  # token 7 is rare


def test_penalties_make_what_was_written_less_likely() -> None:
    written = [0, 0, 1]
    plain = shares(v1.Sampling(), written)
    presence = shares(v1.Sampling(presence_penalty=1.0), written)
    frequency = shares(v1.Sampling(frequency_penalty=1.0), written)
    assert presence[0] < plain[0]
    assert presence[1] < plain[1]
    assert presence[2] > plain[2]
    assert frequency[0] < presence[0]  # written twice
    assert shares(v1.Sampling(frequency_penalty=-2.0), written)[0] > plain[0]
    # The prompt's own tokens (3 and 1) are no one's penalty but the repetition penalty's.
    assert shares(v1.Sampling(presence_penalty=2.0)) == shares(v1.Sampling())
    repetition = shares(v1.Sampling(repetition_penalty=2.0))
    assert repetition[1] < plain[1]
    assert repetition[0] > plain[0]


def test_a_models_defaults_count_where_the_caller_is_silent() -> None:
    own = Defaults(temperature=1.0, top_k=2)
    assert set(shares(v1.Sampling(), defaults=own)) == {0, 1}
    assert set(shares(v1.Sampling(top_k=8), defaults=own)) > {0, 1}


def test_the_noise_is_that_of_the_other_sidecar() -> None:
    found = _noise(KEY, np.array(IDS, np.uint32)).tolist()
    assert found == pytest.approx(noise(), rel=1e-5, abs=1e-6)


def test_a_seed_is_one_answers_own() -> None:
    flat = [0.0] * 1_000

    def story(seed: int | None, times: int = 8) -> list[int]:
        one = Draw(job(v1.Sampling(seed=seed)), PLAIN)
        return [drawn(flat, one).token for _ in range(times)]

    first = story(5)
    assert story(5) == first
    assert len(set(first)) > 4
    assert story(6) != first
    assert story(None) != story(None)


def test_a_large_vocabulary_is_cut_as_a_small_one_is() -> None:
    # More tokens in top_p than are looked at first.
    random = np.random.default_rng(1)
    scores = random.normal(size=20_000).astype(np.float32) / 4
    ordered = np.sort(scores)[::-1]
    weights = np.exp(ordered)
    count = int(np.count_nonzero((np.cumsum(weights) - weights) / weights.sum() < 0.5))
    assert count > 2_000
    sampling = v1.Sampling(seed=1, top_p=0.5)
    found = {one.token for one in draws(scores, sampling, 400)}
    assert min(scores[token] for token in found) >= ordered[count]
    few = v1.Sampling(seed=1, top_k=3_000)
    assert min(scores[one.token] for one in draws(scores, few, 400)) >= ordered[2_999]


def draws(scores: NDArray[np.floating[Any]], sampling: v1.Sampling, times: int) -> list[Drawn]:
    one = Draw(job(sampling), PLAIN)
    return [drawn(scores, one) for _ in range(times)]  # type: ignore[arg-type]


def test_log_probabilities_are_of_what_the_model_said() -> None:
    one = Draw(job(v1.Sampling(temperature=0, logit_bias={4: 100.0}), top_logprobs=3), PLAIN)
    found = drawn(SCORES, one)
    assert found.scores is not None
    total = math.log(sum(map(math.exp, SCORES)))
    assert found.token == 4
    assert found.scores.logprob == pytest.approx(0.0 - total, abs=1e-6)
    expected: list[Any] = [
        (token, pytest.approx(SCORES[token] - total, abs=1e-6)) for token in range(3)
    ]
    assert list(found.scores.top) == expected
    none = Draw(job(v1.Sampling(), top_logprobs=0), PLAIN)
    its = drawn(SCORES, none).scores
    assert its is not None
    assert its.top == []


def test_a_bias_for_a_token_that_is_none_changes_nothing() -> None:
    assert set(shares(v1.Sampling(logit_bias={99: 100.0}))) == set(shares(v1.Sampling()))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("nonsense", [math.nan, math.inf])
def test_scores_that_mean_nothing_are_that_rows_failure(
    nonsense: float, temperature: float
) -> None:
    rows = [Draw(job(v1.Sampling()), Defaults(temperature=temperature)) for _ in range(3)]
    bad = np.array([[1.0, 2.0], [1.0, nonsense], [2.0, 1.0]], np.float32)
    first, second, third = draw(bad, rows)
    assert first.failure is third.failure is None
    assert {first.token, third.token} <= {0, 1}
    assert isinstance(second.failure, Failure)
    assert "NaN" in second.failure.message
    assert second.failure.reason == v1.ERROR_REASON_ENGINE_FAILURE
