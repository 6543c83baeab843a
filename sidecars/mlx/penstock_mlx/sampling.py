"""How tokens are drawn: one step's scores in, one token for each row out.

What each row wishes are its `SamplingParams`; here is the arithmetic. It is numpy's, not mlx's: on
a CPU, mlx takes ten times as long for an exponential and twenty times as long for a maximum, and
numpy reads mlx's memory where it is. Nothing that one row draws depends on which others are there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.job import Job, Scores
from penstock_server.local.sampling import Defaults, SamplingParams

Row = NDArray[np.float32]
"""One score for each token id."""
Rows = NDArray[np.float32]

# Sorting a large vocabulary takes many times as long as finding its likeliest tokens, among which
# nearly always all of top_p is. Where it is not, that row is sorted.
_LIKELIEST = 1_024


class Draw:
    """One answer's drawing: its parameters, and what its penalties have to remember.

    A job that has written already, and goes on after it had to wait anew, goes on in its numbers.
    """

    def __init__(self, job: Job, defaults: Defaults) -> None:
        self.job = job
        self.params = SamplingParams(job.sampling, defaults)
        if not self.params.greedy:
            for _ in range(job.written):
                self.params.number()
        self._number: float | None = None
        params = self.params
        self._penalises = bool(
            params.repetition_penalty != 1 or params.presence or params.frequency
        )
        self._bias: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None
        self._ids: list[int] = []  # of all tokens so far, each once
        self._known: NDArray[np.bool_] | None = None
        self._written: NDArray[np.float32] | None = None
        self._counted = 0

    @property
    def edits(self) -> bool:
        """Whether scores are changed before anything is drawn from them."""
        return self.params.changes_scores or self.job.constraint is not None

    @property
    def filters(self) -> bool:
        """Whether only the likeliest tokens may be drawn."""
        params = self.params
        return params.top_k > 0 or params.top_p < 1 or params.min_p > 0

    def number(self) -> float:
        """This token's random number; the same until `drawn`, should a step be tried again."""
        if self._number is None:
            self._number = self.params.number()
        return self._number

    def drawn(self) -> None:
        """A token was drawn: the next one has another number."""
        self._number = None

    def edit(self, scores: Row) -> None:
        """Penalties, biases and what the constraint forbids, in place."""
        if self._penalises:
            self._penalise(scores)
        if self.params.bias:
            if self._bias is None:
                known = {k: b for k, b in self.params.bias.items() if k < len(scores)}
                self._bias = np.array(list(known), np.int64), np.array(list(known.values()), "f4")
            scores[self._bias[0]] += self._bias[1]
        if self.job.constraint is not None:
            allowed = np.zeros((len(scores) + 31) // 32, dtype=np.int32)
            if self.job.constraint.fill(allowed):
                bits = np.unpackbits(allowed.view(np.uint8), bitorder="little")
                may = bits[: len(scores)].view(np.bool_)
                if not may.any():
                    raise _no_way_on()
                scores[~may] = -math.inf

    def _penalise(self, scores: Row) -> None:
        params, job = self.params, self.job
        if self._known is None or self._written is None:
            self._known = np.zeros(len(scores), np.bool_)
            self._written = np.zeros(len(scores), np.float32)
            self._see(self._known, np.unique(np.asarray(job.prompt)).tolist())
            self._counted = len(job.prompt)
        for token in job.tokens[self._counted :]:
            self._written[token] += 1
            self._see(self._known, [token])
        self._counted = len(job.tokens)
        ids = np.array(self._ids, np.int64)
        its = scores[ids]
        penalty = params.repetition_penalty
        if penalty != 1:
            its = np.where(its < 0, its * np.float32(penalty), its / np.float32(penalty))
        if params.presence or params.frequency:
            counts = self._written[ids]
            its = its - counts * np.float32(params.frequency)
            its -= (counts > 0) * np.float32(params.presence)
        scores[ids] = its

    def _see(self, known: NDArray[np.bool_], tokens: Sequence[int]) -> None:
        for token in tokens:
            if not known[token]:
                known[token] = True
                self._ids.append(token)


@dataclass(slots=True)
class Drawn:
    """What came of one row: a token, or why there is none."""

    token: int = 0
    scores: Scores | None = None
    failure: Failure | None = None


def draw(scores: Rows, rows: Sequence[Draw]) -> list[Drawn]:
    """Draw each row's next token from its scores, ``[rows, vocabulary]``, which are not changed.

    A row that cannot be drawn from says so in its `Drawn`; the others are not touched.
    """
    drawn = [Drawn() for _ in rows]
    tokens = scores.argmax(-1)
    highest = np.take_along_axis(scores, tokens[:, None], -1)[:, 0]
    for i in map(int, np.flatnonzero(~np.isfinite(highest))):  # NaN wins every maximum
        drawn[i].failure = _unsound()
    raw = scores
    edited = [i for i, row in enumerate(rows) if row.edits and drawn[i].failure is None]
    if edited:
        scores = scores.copy()
        for i in edited:
            try:
                rows[i].edit(scores[i])
            except Failure as failure:
                drawn[i].failure = failure
            except Exception as error:  # such as a constraint's: nobody else's failure
                drawn[i].failure = _edit_failed(error)
        tokens[edited] = scores[edited].argmax(-1)
    sampled = [
        i for i, row in enumerate(rows) if not row.params.greedy and drawn[i].failure is None
    ]
    if sampled:
        tokens[sampled] = _sample(scores[sampled], [rows[i] for i in sampled])
    for i, row in enumerate(rows):
        drawn[i].token = int(tokens[i])
        if drawn[i].failure is None:
            row.drawn()
            if row.job.top_logprobs is not None:
                drawn[i].scores = _report(raw[i], drawn[i].token, row.job.top_logprobs)
    return drawn


def _sample(scores: Rows, rows: Sequence[Draw]) -> list[int]:
    scores /= np.array([row.params.temperature for row in rows], np.float32)[:, None]
    highest = scores.max(-1)
    filtered = [i for i, row in enumerate(rows) if row.filters]
    least = {}
    if filtered:
        params = [rows[i].params for i in filtered]
        least = dict(zip(filtered, _least(scores[filtered], params), strict=True))
    tokens = []
    for i, row in enumerate(rows):
        its = scores[i]
        if i in least:
            ids = np.flatnonzero(its >= least[i])
            place = _find(np.exp(its[ids] - highest[i]), row.number())
            tokens.append(int(ids[place]))
        else:
            tokens.append(_find(np.exp(its - highest[i]), row.number()))
    return tokens


def _find(weights: Row, number: float) -> int:
    """By inverse CDF: the first place whose cumulated share is beyond the number's.

    A token of weight 0 is never found, since the value before it is as large; some token always
    is, since a number is below 1. Summed up in double precision: single loses unlikely tokens.
    """
    reached = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(reached, number * reached[-1], side="right"))


def _least(scores: Rows, wishes: Sequence[SamplingParams]) -> Row:
    """The lowest score of each row that may still be drawn, by top_k, top_p and min_p."""
    highest = scores.max(-1, keepdims=True)
    vocabulary = scores.shape[-1]
    most = min(vocabulary, max(_LIKELIEST, *(params.top_k for params in wishes)))
    total = np.exp(scores - highest).sum(-1)
    ordered = _likeliest(scores, most)
    if most < vocabulary:
        reached = np.exp(ordered - highest).sum(-1)
        for params, share in zip(wishes, reached / total, strict=True):
            if share < params.top_p and not params.top_k:
                ordered = _likeliest(scores, vocabulary)
                break
    least = np.empty(len(wishes), np.float32)
    for i, params in enumerate(wishes):
        # top_p is a share of what top_k has left.
        kept = ordered[i, : params.top_k or None]
        if params.top_p < 1:
            weights = np.exp(kept - highest[i])
            whole = weights.sum() if params.top_k else total[i]
            before = np.cumsum(weights) - weights
            kept = kept[: max(1, np.count_nonzero(before < params.top_p * whole))]
        least[i] = kept[-1]
        if params.min_p > 0:
            least[i] = max(least[i], min(kept[0], kept[0] + math.log(params.min_p)))
    return least


def _likeliest(scores: Rows, count: int) -> Rows:
    """Each row's highest scores, in descending order."""
    vocabulary = scores.shape[-1]
    found = scores
    if count < vocabulary:
        found = np.partition(scores, vocabulary - count, axis=-1)[:, vocabulary - count :]
    return np.sort(found, axis=-1)[:, ::-1]


def _report(raw: Row, token: int, top: int) -> Scores:
    """Log probabilities, by the model's own scores: before penalties, masks and temperature."""
    highest = float(raw.max())
    total = highest + math.log(np.exp(raw - highest).sum(dtype=np.float64))
    count = min(top, len(raw))
    ids: Any = np.argpartition(raw, len(raw) - count)[len(raw) - count :] if count else []
    ordered = sorted(((int(i), float(raw[i]) - total) for i in ids), key=lambda one: -one[1])
    return Scores(float(raw[token]) - total, ordered)


def _unsound() -> Failure:
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        "the model computed no finite scores (NaN or infinity); its weights may be "
        "damaged, or its numbers too large for this dtype: try --dtype float32",
    )


def _no_way_on() -> Failure:
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        "the answer's form allows no further token; ask again, and report the schema if it "
        "happens again",
    )


def _edit_failed(error: Exception) -> Failure:
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        f"the engine failed at this answer: {type(error).__name__}: {error}",
    )


__all__ = ["Draw", "Drawn", "draw"]
