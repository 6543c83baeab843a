"""How tokens are drawn: each setting moves the distribution the way its name says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest
from penstock import v1
from penstock_mlx.sampling import Defaults, Draw, processors
from penstock_server.errors import Failure

PROMPT = [3, 1]
SCORES = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0]
PLAIN = Defaults(temperature=1.0)
TIMES = 600


def shares(
    sampling: v1.Sampling, written: Sequence[int] = (), defaults: Defaults = PLAIN
) -> dict[int, float]:
    """How often each token is taken after `PROMPT` and ``written``; a seed makes it repeat."""
    seeded = v1.Sampling(seed=11)
    seeded.MergeFrom(sampling)
    draw = Draw(seeded, defaults)
    tokens = mx.array([*PROMPT, *written])
    rows = mx.array([SCORES] * TIMES)  # one row for each time
    for change in processors(seeded, defaults, len(PROMPT)):
        rows = change(tokens, rows)
    drawn = draw(rows - mx.logsumexp(rows, axis=-1, keepdims=True))
    draw.check()
    tokens_drawn: Any = drawn.tolist()
    return {token: count / TIMES for token, count in Counter(tokens_drawn).items()}


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
    own = Defaults.of({"do_sample": True, "top_k": 2, "temperature": None, "eos_token_id": 2})
    assert own == Defaults(temperature=1.0, top_k=2)
    assert set(shares(v1.Sampling(), defaults=own)) == {0, 1}
    assert set(shares(v1.Sampling(top_k=8), defaults=own)) > {0, 1}
    assert Defaults.of({"temperature": 0.6}).temperature == 0.0, "without do_sample, the likeliest"


def test_a_seed_is_one_answers_own() -> None:
    row = mx.zeros((1, 1_000)) - math.log(1_000)

    def drawn(seed: int | None, times: int = 8) -> list[Any]:
        draw = Draw(v1.Sampling(seed=seed), PLAIN)
        return [draw(row).item() for _ in range(times)]

    mx.random.seed(1)
    first = drawn(5)
    mx.random.seed(2)
    mx.random.uniform()
    assert drawn(5) == first
    assert len(set(first)) > 4
    assert drawn(6) != first
    assert drawn(None) != drawn(None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("nonsense", [math.nan, math.inf])
def test_scores_that_mean_nothing_are_a_failure(nonsense: float, temperature: float) -> None:
    draw = Draw(v1.Sampling(), Defaults(temperature=temperature))
    for scores in ([1.0, 2.0], [1.0, nonsense]):
        row = mx.array([scores])
        assert draw(row - mx.logsumexp(row, keepdims=True)).item() in (0, 1)
    draw.check()
    with pytest.raises(Failure, match="NaN") as caught:
        draw.check()
    assert caught.value.reason == v1.ERROR_REASON_ENGINE_FAILURE
