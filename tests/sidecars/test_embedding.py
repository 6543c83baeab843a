"""Vectors: pooled as the model's own files say, whatever else is computed along with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from penstock import v1
from penstock_hf.embedding import HFEmbeddingBackend
from penstock_server.errors import Failure
from penstock_server.local.command import ModelSpec
from penstock_server.local.embedding import Text, read
from penstock_server.local.engine import Loaded
from penstock_server.local.survey import embeds

from tests.sidecars import encoders, random_models

TEXTS = [
    "Once upon a time",
    "there was a little fox. It said: don't stop!",
    "x",
    "the capital of Japan is Tokyo.",
]


def load(directory: Path, **options: Any) -> tuple[HFEmbeddingBackend, Loaded]:
    backend = HFEmbeddingBackend(
        ModelSpec(str(directory), **{"device": "cpu", "threads": 1, **options})
    )
    return backend, backend.load(lambda progress, stage: None)


def vectors(directory: Path, dimensions: int = 0, **options: Any) -> torch.Tensor:
    backend, loaded = load(directory, **options)
    request = v1.EmbedRequest(inputs=TEXTS)
    if dimensions:
        request.dimensions = dimensions
    return torch.tensor(backend.embed(read(request, loaded)))


def normal(vector: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vector, dim=-1)


def expected(
    directory: Path, pool: Callable[[torch.Tensor], torch.Tensor], prefix: str = ""
) -> torch.Tensor:
    return torch.stack([pool(encoders.states(directory, prefix + text)) for text in TEXTS])


def mean(states: torch.Tensor) -> torch.Tensor:
    return states.mean(0)


def rising_mean(states: torch.Tensor) -> torch.Tensor:
    weights = torch.arange(1, len(states) + 1)[:, None]
    return (states * weights).sum(0) / weights.sum()


def last(states: torch.Tensor) -> torch.Tensor:
    return states[-1]


@pytest.mark.parametrize(
    ("architecture", "pool"),
    [("bert", mean), ("xlm-roberta", mean), ("modernbert", mean), ("qwen3", last)],
)
def test_without_files_that_say_it_encoders_are_averaged_and_decoders_end(
    tmp_path: Path, architecture: str, pool: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    directory = encoders.save(tmp_path, architecture)
    assert embeds(directory)
    torch.testing.assert_close(
        vectors(directory), normal(expected(directory, pool)), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda s: s[0]),
        ({"pooling_mode_mean_tokens": True}, mean),
        ({"pooling_mode_max_tokens": True}, lambda s: s.amax(0)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda s: s.sum(0) / len(s) ** 0.5),
        (
            {"pooling_mode_weightedmean_tokens": True},
            lambda s: (
                (s * torch.arange(1, len(s) + 1)[:, None]).sum(0) / (len(s) * (len(s) + 1) / 2)
            ),
        ),
        ({"pooling_mode_lasttoken": True}, last),
        ({"pooling_mode": "lasttoken"}, last),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            lambda s: torch.cat([s[0], s.mean(0)]),
        ),
    ],
)
def test_sentence_transformers_files_are_followed(
    tmp_path: Path, pooling: Mapping[str, Any], pool: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    directory = encoders.pooled(encoders.save(tmp_path), pooling, normalise=False)
    torch.testing.assert_close(vectors(directory), expected(directory, pool), atol=1e-4, rtol=1e-4)


def test_layers_after_pooling(tmp_path: Path) -> None:
    directory = encoders.pooled(
        encoders.save(tmp_path), {"pooling_mode_mean_tokens": True}, dense=12
    )
    torch.manual_seed(5)
    weight, bias = torch.randn(12, encoders.WIDTH), torch.randn(12)
    expectation = torch.tanh(expected(directory, mean) @ weight.T + bias)
    torch.testing.assert_close(vectors(directory), normal(expectation), atol=1e-5, rtol=1e-4)
    assert load(directory)[1].vectors.dimensions == 12  # type: ignore[union-attr]


def test_a_module_that_is_not_known_is_refused(tmp_path: Path) -> None:
    directory = encoders.pooled(
        encoders.save(tmp_path), {"pooling_mode_mean_tokens": True}, extra=["LSTM"]
    )
    with pytest.raises(Failure) as caught:
        load(directory)
    assert caught.value.reason == v1.ERROR_REASON_UNSUPPORTED_FEATURE
    assert "LSTM" in caught.value.message


def test_shorter_vectors_are_cut_and_normalised_anew(tmp_path: Path) -> None:
    directory = encoders.save(tmp_path)
    whole, short = vectors(directory), vectors(directory, 8)
    assert short.shape == (len(TEXTS), 8)
    torch.testing.assert_close(short, normal(whole[:, :8]))


def test_prompts_stand_before_the_text(tmp_path: Path) -> None:
    directory = encoders.pooled(
        encoders.save(tmp_path),
        {"pooling_mode_mean_tokens": True},
        prompts={"query": "what? ", "document": "that: "},
        default_prompt="document",
    )
    backend, loaded = load(directory)
    request = v1.EmbedRequest(inputs=TEXTS)
    for name, prefix in ((None, "that: "), ("query", "what? ")):
        if name:
            request.provider_options["prompt_name"] = name
        torch.testing.assert_close(
            torch.tensor(backend.embed(read(request, loaded))),
            normal(expected(directory, mean, prefix)),
            atol=1e-5,
            rtol=1e-4,
        )
    request.provider_options["prompt_name"] = "poem"
    with pytest.raises(Failure) as caught:
        read(request, loaded)
    assert "it has: document, query" in caught.value.message


@pytest.mark.parametrize(
    ("architecture", "bound", "length"),
    [("bert", 0, 64), ("xlm-roberta", 0, 64), ("bert", 20, 20)],
)
def test_what_is_too_long_is_refused_by_name(
    tmp_path: Path, architecture: str, bound: int, length: int
) -> None:
    directory = encoders.save(tmp_path, architecture)
    backend, loaded = load(directory, context_length=bound)
    assert loaded.context_length == length
    fits = "🦊" * ((length - 2) // 2)  # each is two tokens, and there are two around them
    texts = read(v1.EmbedRequest(inputs=["a", fits]), loaded)
    assert len(texts[1].tokens) == length
    backend.embed(texts)
    with pytest.raises(Failure) as caught:
        read(v1.EmbedRequest(inputs=["a", fits + "🦊"]), loaded)
    failure = caught.value
    assert failure.reason == v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED
    assert failure.violations[0].field == "inputs[1]"
    assert failure.metadata["context_length"] == str(length)


def test_the_files_bound_the_length_too(tmp_path: Path) -> None:
    directory = encoders.pooled(
        encoders.save(tmp_path), {"pooling_mode_mean_tokens": True}, max_length=24
    )
    assert load(directory)[1].context_length == 24


def test_what_is_known_of_a_loaded_model(tmp_path: Path) -> None:
    _, loaded = load(encoders.save(tmp_path), max_batch=3, prefill_chunk=99, dtype="bfloat16")
    assert loaded.vectors is not None
    assert (loaded.vectors.step_texts, loaded.vectors.step_tokens) == (3, 99)
    assert loaded.dtype == "bfloat16"
    weights = (tmp_path / "model.safetensors").stat().st_size
    assert weights * 0.4 < loaded.weights_bytes < weights * 0.6


def test_a_vector_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    backend, _ = load(encoders.save(tmp_path))
    assert backend._encoder is not None
    with torch.no_grad():
        backend._encoder._model.get_input_embeddings().weight[5] = torch.inf  # type: ignore[operator]
    with pytest.raises(Failure, match="not finite"):
        backend.embed([Text([1, 5, 2])])


def test_models_that_write_are_told_from_those_that_embed(tmp_path: Path) -> None:
    assert not embeds(random_models.save(tmp_path / "llama"))
    assert not embeds(random_models.save(tmp_path / "gpt2", "gpt2"))
    assert embeds(encoders.save(tmp_path / "qwen3", "qwen3"))
    assert not embeds(tmp_path)
