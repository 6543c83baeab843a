"""How one answer's tokens are drawn, in the shape of mlx-lm's samplers and logits processors.

What the caller leaves unset is the model's own default (its generation_config). Everything here
belongs to one answer: no random state and no counts are shared with another. mlx-lm's own
samplers are not used: they draw from the process's random state, and compile a kernel for each
new value of top_p or min_p, which takes seconds on a CPU.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from penstock import v1
from penstock_server.errors import Failure

Processor = Callable[[mx.array, mx.array], mx.array]
"""Takes all tokens so far and the scores of the next one; returns other scores."""

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

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Defaults:
        """The defaults in a generation_config's content.

        Without ``do_sample`` the likeliest token is taken, as ``generate()`` does.
        """
        names = cls.__dataclass_fields__
        values = {n: config[n] for n in names if config.get(n) is not None}
        temperature = values.get("temperature", 1.0) if config.get("do_sample") else 0.0
        return cls(**{**values, "temperature": temperature})

    def or_said(self, sampling: v1.Sampling, name: str) -> float:
        """What the caller said; the default otherwise."""
        said: bool = sampling.HasField(name)  # type: ignore[arg-type] # names are its fields
        return float(getattr(sampling if said else self, name))


def processors(sampling: v1.Sampling, defaults: Defaults, prompt_tokens: int) -> list[Processor]:
    """What changes an answer's scores before a token is drawn, in order.

    ``prompt_tokens`` is how long the prompt is: presence and frequency penalties are for what
    the answer says, not for what the prompt says.
    """
    found: list[Processor] = []
    repetition = defaults.or_said(sampling, "repetition_penalty")
    presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
    if repetition != 1:

        def repeated(tokens: mx.array, logits: mx.array) -> mx.array:
            less = mx.where(logits < 0, logits * repetition, logits / repetition)
            return mx.where(_counts(tokens, logits) > 0, less, logits)

        found.append(repeated)
    if presence or frequency:

        def written(tokens: mx.array, logits: mx.array) -> mx.array:
            counts = _counts(tokens[prompt_tokens:], logits)
            return logits - counts * frequency - (counts > 0) * presence

        found.append(written)
    if sampling.logit_bias:
        biased = mx.array(list(sampling.logit_bias))
        biases = mx.array(list(sampling.logit_bias.values()))
        found.append(lambda _, logits: logits.at[:, biased].add(biases))
    return found


def _counts(tokens: mx.array, logits: mx.array) -> mx.array:
    """How often each token id occurs."""
    return mx.zeros(logits.shape[-1]).at[tokens].add(1.0)


class Draw:
    """Draws one answer's tokens: log probabilities in, token ids out.

    Without a seed every answer is drawn differently; with one, the same request gives the same
    answer, in float32 whatever else runs at the same time.

    Example::

        draw = Draw(sampling, defaults)
        for token, _ in generate_step(prompt, model, sampler=draw):
            draw.check()
    """

    def __init__(self, sampling: v1.Sampling, defaults: Defaults) -> None:
        self._temperature = defaults.or_said(sampling, "temperature")
        self._filters = [
            (narrow, value)
            for name, (matters, narrow) in _FILTERS.items()
            if matters(value := defaults.or_said(sampling, name))
        ]
        seed = sampling.seed if sampling.HasField("seed") else random.getrandbits(64)
        self._key = mx.random.key(seed)
        self._sound: deque[mx.array] = deque()

    def __call__(self, logprobs: mx.array) -> mx.array:
        """The next token of each row."""
        if self._temperature < _COLDEST:
            tokens = mx.argmax(logprobs, axis=-1)
        else:
            scores = logprobs.astype(mx.float32) / self._temperature
            for narrow, value in self._filters:
                scores = narrow(scores, value)
            self._key, key = mx.random.split(self._key)
            tokens = mx.random.categorical(scores, key=key)
        # NaN anywhere makes all log probabilities NaN, infinity its own.
        sound = mx.isfinite(mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0])
        self._sound.append(sound)
        return mx.where(sound, tokens, 0)  # what meant nothing could be an id that is none

    def check(self) -> None:
        """Raise ENGINE_FAILURE where the oldest token not yet checked was drawn from nonsense.

        Not done while drawing: the answer's next token is being computed then already, and
        looking would wait for it.
        """
        if not self._sound.popleft().all().item():
            raise Failure(
                v1.ERROR_REASON_ENGINE_FAILURE,
                "the model computed no finite scores (NaN or infinity); its weights may be "
                "damaged, or its numbers too large for this dtype: try --dtype float32",
            )


def _top_k(scores: mx.array, top_k: float) -> mx.array:
    count = min(int(top_k), scores.shape[-1])
    return _from(scores, mx.topk(scores, count, axis=-1).min(axis=-1, keepdims=True))


def _top_p(scores: mx.array, top_p: float) -> mx.array:
    ordered = mx.sort(scores, axis=-1)
    reached = mx.cumsum(mx.softmax(ordered, axis=-1), axis=-1)
    # From the unlikeliest up: small numbers are summed before large ones. One is always kept.
    left_out = (reached <= 1 - top_p)[..., :-1].sum(axis=-1, keepdims=True)
    return _from(scores, mx.take_along_axis(ordered, left_out, axis=-1))


def _min_p(scores: mx.array, min_p: float) -> mx.array:
    return _from(scores, scores.max(axis=-1, keepdims=True) + math.log(min_p))


def _from(scores: mx.array, least: mx.array) -> mx.array:
    return mx.where(scores < least, -math.inf, scores)


_FILTERS: Mapping[str, tuple[Callable[[float], bool], Callable[[mx.array, float], mx.array]]] = {
    "top_k": (lambda value: value > 0, _top_k),
    "top_p": (lambda value: value < 1, _top_p),
    "min_p": (lambda value: value > 0, _min_p),
}
"""What narrows the choice: where it does anything, and how. In transformers' order."""
