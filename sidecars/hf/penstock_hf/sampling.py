"""How one answer's tokens are drawn: logits in, one token left.

What the caller leaves unset is the model's own default (its generation_config). Everything here
belongs to one answer: no random state and no counts are shared with another.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from penstock import v1
from penstock_server.errors import Failure
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

# Colder than this is the likeliest token in all but name, and dividing by it leaves no finite
# numbers.
_COLDEST = 1e-4


@dataclass(frozen=True, slots=True)
class Defaults:
    """The model's own sampling, for what a caller leaves unset. Neutral values change nothing."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    # What the contract has no field for: the model's own value always counts.
    top_h: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0

    @classmethod
    def of(cls, config: GenerationConfig) -> Defaults:
        """The defaults in a model's generation_config.

        Only what stands in it counts: where it is silent, transformers itself would draw from
        the 50 likeliest tokens, which nobody asked for. Without ``do_sample`` the likeliest
        token is taken, as ``generate()`` does.
        """
        values = {
            name: value
            for name in cls.__dataclass_fields__
            if (value := getattr(config, name, None)) is not None
        }
        temperature = float(values.pop("temperature", 1.0)) if config.do_sample else 0.0
        return cls(**{**values, "temperature": temperature})


class _Sound(LogitsProcessor):
    """Refuses logits that mean nothing, before they silently become some token."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not math.isfinite(scores.max().item()):  # NaN wins every max()
            raise Failure(
                v1.ERROR_REASON_ENGINE_FAILURE,
                "the model computed no finite scores (NaN or infinity); its weights may be "
                "damaged, or its numbers too large for this dtype: try --dtype float32",
            )
        return scores


class _Written(LogitsProcessor):
    """Presence and frequency penalties: for what the answer says, not for what the prompt says."""

    def __init__(self, presence: float, frequency: float, prompt_tokens: int) -> None:
        self._presence = presence
        self._frequency = frequency
        self._seen = prompt_tokens
        self._counts: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._counts is None:
            self._counts = torch.zeros_like(scores[0])
        new = input_ids[0, self._seen :]
        self._counts.index_add_(0, new, torch.ones_like(new, dtype=self._counts.dtype))
        self._seen = input_ids.shape[1]
        return scores - self._counts * self._frequency - (self._counts > 0) * self._presence


class _Bias(LogitsProcessor):
    """Adds the caller's bias to single tokens' scores."""

    def __init__(self, bias: Mapping[int, float], device: torch.device) -> None:
        self._tokens = torch.tensor(list(bias), device=device)
        self._values = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_add(1, self._tokens, self._values[None].to(scores.dtype))


class _Draw(LogitsProcessor):
    """Draws the token, by inverse CDF from this answer's own random numbers, and leaves it alone.

    ``generate()`` then takes the likeliest, which is the drawn one. One number is used for each
    token, whatever the device: a seed means the same everywhere, as far as the scores do.
    """

    def __init__(self, numbers: random.Random) -> None:
        self._numbers = numbers

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        row = scores[0].cpu() if scores.device.type == "mps" else scores[0]  # mps has no doubles
        # In double precision: over a large vocabulary single precision loses unlikely tokens.
        reached = row.double().softmax(dim=-1).cumsum(dim=-1)
        # Below the last value by construction, so that some token is always found; a token of
        # probability 0 never is, since the value before it is as large.
        mark = reached[-1] * min(self._numbers.random(), 1 - 2**-52)
        token = torch.searchsorted(reached, mark, right=True)
        drawn = torch.full_like(scores, -math.inf)
        drawn[0, int(token)] = 0.0
        return drawn


_WARPERS: Mapping[str, tuple[Callable[[float], bool], Callable[[float], LogitsProcessor]]] = {
    "top_h": (lambda value: value > 0, TopHLogitsWarper),
    "top_k": (lambda value: value > 0, lambda value: TopKLogitsWarper(int(value))),
    "top_p": (lambda value: value < 1, TopPLogitsWarper),
    "min_p": (lambda value: value > 0, MinPLogitsWarper),
    "typical_p": (lambda value: 0 < value < 1, TypicalLogitsWarper),
    "epsilon_cutoff": (lambda value: 0 < value < 1, EpsilonLogitsWarper),
    "eta_cutoff": (lambda value: 0 < value < 1, EtaLogitsWarper),
}
"""What narrows the choice: where it does anything, and how. In transformers' own order."""


def processors(
    sampling: v1.Sampling, defaults: Defaults, prompt_tokens: int, device: torch.device
) -> LogitsProcessorList:
    """What ``generate(do_sample=False)`` needs to draw one answer's tokens.

    ``sampling`` is the caller's, already checked; ``prompt_tokens`` is how long the prompt is.
    Without a seed every call draws differently; with one, the same request gives the same
    answer, in float32 whatever else runs at the same time.

    Example::

        drawing = processors(sampling, defaults, ids.shape[1], ids.device)
        model.generate(ids, do_sample=False, logits_processor=drawing)
    """

    said = {field.name: value for field, value in sampling.ListFields()}

    def value(name: str) -> float:
        return float(said.get(name, getattr(defaults, name)))

    found = LogitsProcessorList([_Sound()])
    if value("repetition_penalty") != 1:
        found.append(RepetitionPenaltyLogitsProcessor(value("repetition_penalty")))
    if sampling.presence_penalty or sampling.frequency_penalty:
        found.append(_Written(sampling.presence_penalty, sampling.frequency_penalty, prompt_tokens))
    if sampling.logit_bias:
        found.append(_Bias(sampling.logit_bias, device))
    if value("temperature") < _COLDEST:
        return found
    if value("temperature") != 1:
        found.append(TemperatureLogitsWarper(value("temperature")))
    for name, (matters, warper) in _WARPERS.items():
        if matters(value(name)):
            found.append(warper(value(name)))
    found.append(_Draw(random.Random(said.get("seed"))))
    return found
