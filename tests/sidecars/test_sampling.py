"""How tokens are drawn: each setting moves the distribution the way its name says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from penstock import v1
from penstock_hf.backend import HFBackend
from penstock_hf.sampling import Defaults, processors
from penstock_server.errors import Failure
from penstock_server.local.command import ModelSpec
from penstock_server.local.job import Job
from transformers import GenerationConfig

from tests.sidecars import random_models
from tests.sidecars.counting import number_text

PROMPT = [3, 1]
SCORES = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0]
PLAIN = Defaults(temperature=1.0)


def drawer(
    sampling: v1.Sampling,
    defaults: Defaults = PLAIN,
    written: Sequence[int] = (),
    scores: Sequence[float] = SCORES,
) -> Callable[[], int]:
    """Draws the token after `PROMPT` and ``written``, again and again."""
    chain = processors(sampling, defaults, len(PROMPT), torch.device("cpu"))
    ids, row = torch.LongTensor([[*PROMPT, *written]]), torch.FloatTensor([scores])
    return lambda: int(chain(ids, row.clone()).argmax())


def shares(sampling: v1.Sampling, times: int = 600, **options: Any) -> dict[int, float]:
    """How often each token is taken; always the same, since a seed is set."""
    seeded = v1.Sampling(seed=11)
    seeded.MergeFrom(sampling)
    draw = drawer(seeded, **options)
    return {token: count / times for token, count in Counter(draw() for _ in range(times)).items()}


def test_tokens_come_as_often_as_their_probability_says() -> None:
    expected = torch.tensor(SCORES).softmax(0).tolist()
    found = shares(v1.Sampling())
    for token, probability in enumerate(expected):
        allowed = 4 * math.sqrt(probability / 600)  # four standard deviations
        assert found.get(token, 0.0) == pytest.approx(probability, abs=allowed)


def test_temperature() -> None:
    assert set(shares(v1.Sampling(temperature=0), 20)) == {0}
    assert set(shares(v1.Sampling(temperature=1e-9), 20)) == {0}
    cold, hot = (shares(v1.Sampling(temperature=t))[0] for t in (0.3, 2.0))
    assert cold > 0.7 > 0.4 > hot


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (v1.Sampling(top_k=1), {0}),
        (v1.Sampling(top_k=3), {0, 1, 2}),
        (v1.Sampling(top_k=1_000), set(range(8))),
        (v1.Sampling(top_p=0.4), {0}),  # which has 0.405 by itself
        (v1.Sampling(top_p=0.5), {0, 1}),
        (v1.Sampling(top_p=1e-9), {0}),
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
    plain = shares(v1.Sampling(), written=written)
    presence = shares(v1.Sampling(presence_penalty=1.0), written=written)
    frequency = shares(v1.Sampling(frequency_penalty=1.0), written=written)
    assert presence[0] < plain[0]
    assert presence[1] < plain[1]
    assert presence[2] > plain[2]
    assert frequency[0] < presence[0]  # written twice
    # The prompt's own tokens (3 and 1) are no one's penalty but the repetition penalty's.
    assert shares(v1.Sampling(presence_penalty=2.0)) == shares(v1.Sampling())
    repetition = shares(v1.Sampling(repetition_penalty=2.0))
    assert repetition[1] < plain[1]
    assert repetition[0] > plain[0]
    assert shares(v1.Sampling(frequency_penalty=-2.0), written=written)[0] > plain[0]


def test_penalties_count_across_steps() -> None:
    sampling = v1.Sampling(temperature=0, frequency_penalty=1.0)
    chain = processors(sampling, PLAIN, len(PROMPT), torch.device("cpu"))
    tokens = list(PROMPT)
    for _ in range(6):
        left = chain(torch.LongTensor([tokens]), torch.FloatTensor([[2.1, 1.5, 1.05, 0.5]]))
        tokens.append(int(left.argmax()))
    # 2.1 → 1.1, so that 1.5 is next → 0.5, then 1.1 → 0.1, then 1.05 → 0.05, …
    assert tokens[len(PROMPT) :] == [0, 1, 0, 2, 1, 3]


def test_seeds() -> None:
    def sequence(seed: int | None) -> list[int]:
        draw = drawer(v1.Sampling(seed=seed))
        return [draw() for _ in range(40)]

    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)
    assert sequence(None) != sequence(None)
    before = torch.random.get_rng_state()
    sequence(None)
    assert torch.equal(before, torch.random.get_rng_state()), "the global state was touched"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_mean_nothing_are_a_failure(bad: float, temperature: float) -> None:
    with pytest.raises(Failure) as caught:
        drawer(v1.Sampling(temperature=temperature), scores=[1.0, bad, 0.0])()
    assert caught.value.reason == v1.ERROR_REASON_ENGINE_FAILURE
    with pytest.raises(Failure):
        drawer(v1.Sampling(temperature=temperature), scores=[-math.inf, -math.inf])()


def test_defaults_are_the_models_own() -> None:
    def defaults(**settings: Any) -> Defaults:
        return Defaults.of(GenerationConfig(**settings))  # type: ignore[no-untyped-call]

    assert defaults() == Defaults()  # greedy, as generate() is; and no top_k of 50
    chatty = defaults(do_sample=True, temperature=0.6, top_p=0.9)
    assert chatty == Defaults(temperature=0.6, top_p=0.9)
    assert defaults(do_sample=True) == Defaults(temperature=1.0)
    assert set(shares(v1.Sampling(), 200, defaults=Defaults(temperature=1.0, top_k=2))) == {0, 1}
    # What the caller says counts, also where it is the neutral value.
    assert len(shares(v1.Sampling(top_k=8), 200, defaults=Defaults(temperature=1.0, top_k=2))) > 4
    assert set(shares(v1.Sampling(temperature=0), 20, defaults=chatty)) == {0}
    assert set(shares(v1.Sampling(), 20, defaults=Defaults())) == {0}
    narrow = Defaults(temperature=1.0, typical_p=0.5, epsilon_cutoff=0.1, eta_cutoff=0.1, top_h=0.5)
    assert len(shares(v1.Sampling(), 200, defaults=narrow)) < 5


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    generation = {"do_sample": True, "temperature": 0.9, "repetition_penalty": 1.1, "max_length": 9}
    directory = random_models.save(tmp_path_factory.mktemp("model"), generation=generation)
    backend = HFBackend(ModelSpec(str(directory), device="cpu", threads=1))
    backend.load(lambda progress, stage: None)
    return backend


def write(backend: HFBackend, tokens: int = 30, **sampling: Any) -> list[int]:
    written: list[int] = []

    def emit(token: int) -> bool:
        written.append(token)
        return len(written) >= tokens

    backend.decode(Job([9, 9, 9], number_text(), v1.Sampling(**sampling), limit=tokens), emit)
    return written


def test_answers_of_a_model_are_drawn_that_way(backend: HFBackend) -> None:
    greedy = write(backend, temperature=0)
    assert write(backend, top_k=1) == greedy == write(backend, temperature=0, seed=3)
    assert write(backend, seed=1) == write(backend, seed=1) != write(backend, seed=2)
    assert write(backend) != write(backend)
    assert set(write(backend, logit_bias={200: 100})) == {200}
    assert len(set(write(backend, temperature=0, frequency_penalty=2.0))) > len(set(greedy))
