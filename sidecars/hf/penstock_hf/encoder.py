"""Texts' vectors from a transformer's hidden states: batches, pooling, what follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.checkpoint import context_length
from penstock_server.local.command import ModelSpec
from penstock_server.local.embedding import Text, Vector
from penstock_server.local.engine import Loaded, Report, Vectors
from penstock_server.local.tokenizer import Tokenizer
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from penstock_hf import loading, sentences
from penstock_hf.sentences import Dense, Sentences

_STEP_TOKENS = {"cpu": 2_048}
_STEP_TOKENS_ELSEWHERE = 16_384
"""How many tokens to compute at a time: enough to be busy, few enough to be done soon."""

# Their positions begin after the padding token's id, so that fewer texts fit than it seems.
_PADDED_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "xmod")

_NO_LIMIT = 1_000_000  # what tokenizers say who know none is larger


def load(spec: ModelSpec, report: Report) -> tuple[Encoder, Loaded]:
    """Load a model that turns text into vectors. Raises a `Failure` that says what to do."""
    return loading.explained(spec, lambda: _load(spec, report))


def _load(spec: ModelSpec, report: Report) -> tuple[Encoder, Loaded]:
    directory = loading.fetch(spec, report)
    how = sentences.read(directory)
    opened = loading.open_source(spec, report, str(how.transformer))
    model = loading.read_encoder(opened, spec, report)
    dense = [_dense(layer).to(model.device, model.dtype) for layer in how.dense]
    encoder = Encoder(model, how, dense)
    limits = (
        how.max_length,
        _positions(model.config, spec.context_length),
        opened.tokenizer.model_max_length,
    )
    tensors = [*model.parameters(), *model.buffers(), *(p for d in dense for p in d.parameters())]
    loaded = Loaded(
        tokenizer=Tokenizer(opened.tokenizer),
        vocabulary=model.config.get_text_config().vocab_size,
        context_length=min((n for n in limits if 0 < n < _NO_LIMIT), default=0),
        vectors=Vectors(
            encoder.dimensions,
            how.prompts,
            how.default_prompt,
            how.lowercase,
            spec.prefill_chunk or _STEP_TOKENS.get(model.device.type, _STEP_TOKENS_ELSEWHERE),
            spec.max_batch,
        ),
        weights_bytes=sum(tensor.nbytes for tensor in tensors),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )
    return encoder, loaded


class Encoder:
    """A model in memory. Everything on one thread.

    ``dense`` are the layers after pooling.
    """

    def __init__(
        self, model: PreTrainedModel, how: Sentences, dense: Sequence[torch.nn.Module]
    ) -> None:
        self._model = model
        self._pooling = [_POOLINGS[way] for way in how.pooling or [_usual_pooling(model)]]
        self._dense = dense
        self._normalise = how.normalise
        text = model.config.get_text_config()
        self._padding: int = text.pad_token_id or 0  # masked; some models want to know it
        self._options: Mapping[str, Any] = {}
        if not model.config.is_encoder_decoder and hasattr(text, "use_cache"):
            self._options = {"use_cache": False}
        self.dimensions = text.hidden_size * len(self._pooling)
        for layer in dense:
            linear: Any = layer
            self.dimensions = linear[0].out_features

    def embed(self, texts: Sequence[Text]) -> Sequence[Vector]:
        """The texts' vectors."""
        length = max(len(text.tokens) for text in texts)
        ids = torch.full((len(texts), length), self._padding)
        mask = torch.zeros((len(texts), length), dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text.tokens)] = torch.tensor(text.tokens)
            mask[row, : len(text.tokens)] = 1
        with torch.inference_mode():
            device = self._model.device
            ids, mask = ids.to(device), mask.to(device)
            states = self._model(ids, attention_mask=mask, **self._options).last_hidden_state
            vectors = torch.cat([pool(states, mask) for pool in self._pooling], 1)
            for layer in self._dense:
                vectors = layer(vectors.to(self._model.dtype))
            vectors = vectors.float()
            if self._normalise:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
            return [
                self._finish(vector, text.dimensions)
                for vector, text in zip(vectors.cpu(), texts, strict=True)
            ]

    def _finish(self, vector: Tensor, dimensions: int) -> Vector:
        if not torch.isfinite(vector).all():
            raise Failure(
                v1.ERROR_REASON_ENGINE_FAILURE,
                f"the model's vector is not finite; its weights may not fit {self._model.dtype}: "
                "try --dtype float32",
            )
        if 0 < dimensions < len(vector):
            vector = vector[:dimensions]
            if self._normalise:
                vector = torch.nn.functional.normalize(vector, dim=0)
        values: list[float] = vector.tolist()
        return values


def _cls(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def _max(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(1)


def _weighted(states: Tensor, weights: Tensor) -> Tensor:
    return (states.float() * weights.float()[:, :, None]).sum(1)


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return _weighted(states, mask) / mask.sum(1, keepdim=True)


def _mean_sqrt_len(states: Tensor, mask: Tensor) -> Tensor:
    return _weighted(states, mask) / mask.sum(1, keepdim=True).sqrt()


def _weighted_mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return _weighted(states, weights) / weights.sum(1, keepdim=True)


def _last(states: Tensor, mask: Tensor) -> Tensor:
    rows = torch.arange(len(states), device=states.device)
    return states[rows, mask.sum(1) - 1]


_POOLINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_len,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
"""Ways to make a text's vector of its tokens' (rows are padded on the right)."""


def _usual_pooling(model: PreTrainedModel) -> str:
    """Of a decoder, only the last token has seen the whole text."""
    kind = model.config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return "lasttoken" if causal and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "mean"


def _positions(config: Any, bound: int) -> int:
    text = config.get_text_config()
    length = context_length(lambda name: getattr(text, name, None))
    if length and text.model_type in _PADDED_POSITIONS:
        length -= (text.pad_token_id or 0) + 1
    return min((n for n in (length, bound) if n), default=0)


def _dense(layer: Dense) -> torch.nn.Sequential:
    weights = load_file(layer.directory / "model.safetensors")
    weight, bias = weights["linear.weight"], weights.get("linear.bias")
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    activation: torch.nn.Module = getattr(torch.nn, layer.activation)()
    return torch.nn.Sequential(linear, activation).eval()
