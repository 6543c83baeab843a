"""How tokens are drawn: one step's scores in, one token for each row out.

What each row wishes are its `SamplingParams`; here is the arithmetic, for as many rows at once as
can share it. Nothing that one row draws depends on which others are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.job import Job, Scores
from penstock_server.local.sampling import Defaults, SamplingParams
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    MinPLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

# Sorting a large vocabulary takes ten times as long as finding its likeliest tokens, among which
# nearly always all of top_p is. Where it is not, that row is sorted.
_LIKELIEST = 1_024

_Warper = tuple[Callable[[float], bool], Callable[[float], LogitsProcessor]]

_WARPERS: Mapping[str, _Warper] = {
    "top_h": (lambda value: value > 0, TopHLogitsWarper),
    "top_k": (lambda value: value > 0, lambda value: TopKLogitsWarper(int(value))),
    "top_p": (lambda value: value < 1, TopPLogitsWarper),
    "min_p": (lambda value: value > 0, MinPLogitsWarper),
    "typical_p": (lambda value: 0 < value < 1, TypicalLogitsWarper),
    "epsilon_cutoff": (lambda value: 0 < value < 1, EpsilonLogitsWarper),
    "eta_cutoff": (lambda value: 0 < value < 1, EtaLogitsWarper),
}
"""What narrows the choice: where it does anything, and how; in the order of transformers."""

_USUAL = frozenset({"top_k", "top_p", "min_p"})
"""Those are computed for many answers at once; beside others, in their order, by transformers."""


class Draw:
    """One answer's drawing: its parameters, and what its penalties have to remember.

    ``tokens`` of the job that were there already, such as those before the answer had to wait
    anew, count as seen.
    """

    def __init__(self, job: Job, defaults: Defaults) -> None:
        self.job = job
        self.params = SamplingParams(job.sampling, defaults)
        self.constraint = job.constraint
        self.top_logprobs = job.top_logprobs
        warpers = {
            name: make(value)
            for name, (matters, make) in _WARPERS.items()
            if matters(value := getattr(self.params if name in _USUAL else defaults, name))
        }
        self.warpers = list(warpers.values()) if warpers.keys() - _USUAL else []
        self.filters = bool(warpers) and not self.warpers
        """Whether only the likeliest tokens may be drawn, by the usual ways alone."""
        self.edits = self.params.changes_scores or self.constraint is not None
        self._seen: torch.Tensor | None = None
        self._written: torch.Tensor | None = None
        self._counted = 0
        self._bias: tuple[torch.Tensor, torch.Tensor] | None = None
        self._number = (-1, 0.0)

    def number(self) -> float:
        """The random number for the next token: the same one until that has been accepted.

        A step that failed is computed anew, and must not cost the others a number.
        """
        place = len(self.job.tokens)
        if self._number[0] != place:
            self._number = (place, self.params.number())
        return self._number[1]

    def edit(self, scores: torch.Tensor) -> None:
        """Penalties, biases and what the constraint forbids: on one row's scores, in place."""
        params = self.params
        if params.repetition_penalty != 1 or params.presence or params.frequency:
            self._penalise(scores)
        if params.bias:
            if self._bias is None:
                self._bias = (
                    torch.tensor(list(params.bias), device=scores.device),
                    torch.tensor(
                        list(params.bias.values()), dtype=scores.dtype, device=scores.device
                    ),
                )
            scores.index_add_(0, *self._bias)
        if self.constraint is not None:
            allowed = np.zeros((scores.shape[0] + 31) // 32, dtype=np.int32)
            if self.constraint.fill(allowed):
                self._forbid(scores, allowed)

    def _penalise(self, scores: torch.Tensor) -> None:
        params, job = self.params, self.job
        if self._seen is None or self._written is None:
            self._seen = torch.zeros_like(scores, dtype=torch.bool)
            self._written = torch.zeros_like(scores)
            self._count(job.prompt, scores)
            self._counted = len(job.prompt)
            self._written.zero_()
        self._count(job.tokens[self._counted :], scores)
        self._counted = len(job.tokens)
        penalty = params.repetition_penalty
        if penalty != 1:
            less = torch.where(scores < 0, scores * penalty, scores / penalty)
            scores.copy_(torch.where(self._seen, less, scores))
        if params.presence or params.frequency:
            scores -= self._written * params.frequency + (self._written > 0) * params.presence

    def _count(self, tokens: Sequence[int], scores: torch.Tensor) -> None:
        assert self._seen is not None
        assert self._written is not None
        new = torch.tensor(tokens, dtype=torch.long, device=scores.device)
        self._seen[new] = True
        self._written.index_add_(0, new, torch.ones_like(new, dtype=scores.dtype))

    def _forbid(self, scores: torch.Tensor, allowed: np.ndarray) -> None:
        words = torch.from_numpy(allowed).to(scores.device)
        bits = torch.arange(32, dtype=torch.int32, device=scores.device)
        may = ((words[:, None] >> bits) & 1).bool().view(-1)[: scores.shape[0]]
        if not bool(may.any()):
            raise Failure(
                v1.ERROR_REASON_ENGINE_FAILURE,
                "the answer's form allows no further token; ask again, and report the schema if it "
                "happens again",
            )
        scores.masked_fill_(~may, -math.inf)


@dataclass(slots=True)
class Drawn:
    """What came of one row: a token, or why there is none."""

    token: int = 0
    scores: Scores | None = None
    failure: Failure | None = None


def draw(scores: torch.Tensor, rows: Sequence[Draw]) -> list[Drawn]:
    """Draw each row's next token from its scores (``[rows, vocabulary]``, any float type).

    A row that cannot be drawn from says so in its `Drawn`; the others are not touched.
    """
    drawn = [Drawn() for _ in rows]
    sound = scores.amax(-1).isfinite()  # NaN wins every max()
    if not bool(sound.all()):
        for result, good in zip(drawn, sound.tolist(), strict=True):
            if not good:
                result.failure = _unsound()
    asked = [i for i, row in enumerate(rows) if row.top_logprobs is not None]
    raw = scores[asked].float().log_softmax(-1) if asked else None
    changed = False
    for i, row in enumerate(rows):
        if row.edits and drawn[i].failure is None:
            if not changed:
                scores, changed = scores.float().clone(), True
            try:
                row.edit(scores[i])
            except Exception as error:  # constraints are libraries': anything
                drawn[i].failure = _not_drawn(error)
    if changed:
        edited = [i for i, row in enumerate(rows) if row.edits and drawn[i].failure is None]
        possible = scores[edited].amax(-1).isfinite().tolist()
        for i, good in zip(edited, possible, strict=True):
            if not good:
                drawn[i].failure = _impossible()
    tokens = scores.argmax(-1)
    sampled = [
        i for i, row in enumerate(rows) if not row.params.greedy and drawn[i].failure is None
    ]
    if sampled:
        index = torch.tensor(sampled, device=scores.device)
        tokens[index] = _sample(scores[index].float(), [rows[i] for i in sampled])
    for result, token in zip(drawn, tokens.tolist(), strict=True):
        result.token = token
    if raw is not None:
        _report(raw, asked, rows, drawn)
    return drawn


def _sample(scores: torch.Tensor, rows: Sequence[Draw]) -> torch.Tensor:
    temperatures = torch.tensor([row.params.temperature for row in rows], device=scores.device)
    scores = scores / temperatures[:, None]
    for i, row in enumerate(rows):
        for warp in row.warpers:
            scores[i] = warp(None, scores[i : i + 1])[0]
    # In every row's own order, so that its numbers do not depend on who else is there.
    numbers = torch.tensor(
        [row.number() for row in rows], dtype=torch.float64, device=_doubles(scores)
    )
    tokens = torch.empty(len(rows), dtype=torch.long, device=scores.device)
    plain = [i for i, row in enumerate(rows) if not row.filters]
    if plain:
        reached = scores[plain].to(numbers.device).double().softmax(-1).cumsum(-1)
        tokens[plain] = _find(reached, numbers[plain]).to(scores.device)
    filtered = [i for i, row in enumerate(rows) if row.filters]
    if filtered:
        tokens[filtered] = _sample_likeliest(
            scores[filtered], numbers[filtered], [rows[i].params for i in filtered]
        )
    return tokens


def _sample_likeliest(
    scores: torch.Tensor, numbers: torch.Tensor, wishes: Sequence[SamplingParams]
) -> torch.Tensor:
    vocabulary = scores.shape[-1]
    most = min(vocabulary, max(_LIKELIEST, *(params.top_k for params in wishes)))
    ordered, ids = scores.topk(most, dim=-1)
    total = scores.logsumexp(-1, keepdim=True)
    if most < vocabulary:
        reached = (ordered - total).exp().sum(-1).tolist()
        least = (ordered[:, -1] - ordered[:, 0]).exp().tolist()
        enough = [
            params.top_k > 0 or share >= params.top_p or last < params.min_p
            for share, last, params in zip(reached, least, wishes, strict=True)
        ]
        if not all(enough):
            ordered, ids = scores.sort(-1, descending=True)
    kept = ordered.shape[-1]
    device = scores.device
    top_k = torch.tensor([params.top_k or kept for params in wishes], device=device)[:, None]
    top_p = torch.tensor([params.top_p for params in wishes], device=device)[:, None]
    floor = torch.tensor(
        [math.log(params.min_p) if params.min_p else -math.inf for params in wishes],
        device=device,
    )[:, None]
    keep = torch.arange(kept, device=device)[None] < top_k
    # top_p is a share of what top_k has left.
    whole = torch.where(
        torch.tensor([[params.top_k > 0] for params in wishes], device=device),
        ordered.masked_fill(~keep, -math.inf).logsumexp(-1, keepdim=True),
        total,
    )
    shares = (ordered - whole).exp()
    keep &= shares.cumsum(-1) - shares < top_p
    keep &= ordered - ordered[:, :1] >= floor
    keep[:, 0] = True
    # By their ids, not by likelihood: of two that are as likely as each other, the last digit of
    # a sum says which comes first, and whoever else is in the batch may change that digit.
    width = int(keep.sum(-1).max())
    ids, order = ids[:, :width].sort(-1)
    shares = shares[:, :width].masked_fill(~keep[:, :width], 0.0).gather(1, order)
    place = _find(shares.to(numbers.device).double().cumsum(-1), numbers)
    return ids.gather(1, place[:, None].to(device))[:, 0]


def _find(reached: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """By inverse CDF: the first place whose cumulated share is beyond the number's.

    A token of probability 0 is never found, since the value before it is as large; some token
    always is, since a number is below 1.
    """
    marks = reached[:, -1:] * numbers[:, None]
    return torch.searchsorted(reached, marks, right=True)[:, 0]


def _doubles(scores: torch.Tensor) -> torch.device:
    """Where there are numbers of double precision: single loses unlikely tokens of many."""
    return torch.device("cpu") if scores.device.type == "mps" else scores.device


def _report(
    raw: torch.Tensor, asked: Sequence[int], rows: Sequence[Draw], drawn: Sequence[Drawn]
) -> None:
    """Log probabilities, by the model's own scores: before penalties, masks and temperature."""
    most = max(rows[i].top_logprobs or 0 for i in asked)
    tokens = torch.tensor([drawn[i].token for i in asked], device=raw.device)
    own = raw.gather(1, tokens[:, None])[:, 0].tolist()
    values, ids = raw.topk(min(most, raw.shape[-1]), dim=-1)
    for i, logprob, top, names in zip(asked, own, values.tolist(), ids.tolist(), strict=True):
        count = rows[i].top_logprobs or 0
        drawn[i].scores = Scores(logprob, list(zip(names, top, strict=True))[:count])


def _not_drawn(error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        f"drawing this answer's token failed: {type(error).__name__}: "
        f"{' '.join(str(error).split())}",
    )


def _impossible() -> Failure:
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        "no token can be drawn: the model gives no probability to any that the answer's form "
        "allows; ask again, or use another form",
    )


def _unsound() -> Failure:
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        "the model computed no finite scores (NaN or infinity); its weights may be "
        "damaged, or its numbers too large for this dtype: try --dtype float32",
    )
