"""How a loaded model is run: many texts at once or one at a time, and within what memory.

Which it is, is tried: whether a model computes many texts as it computes each alone depends on
what it does with its caches, which mlx-lm says of none of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import CacheList, KVCache, make_prompt_cache
from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded
from penstock_server.local.sampling import Defaults

from penstock_mlx.batch import Batch
from penstock_mlx.rows import MergedRows, Rows, SingleRow
from penstock_mlx.slot_rows import SlotRows

_MOST = 64
"""How many answers are computed at a time, where the operator does not say."""

_CHUNK, _CHUNK_GPU = 256, 512
"""Prompt tokens a step: as many as keep the device busy, and no more."""

_SHARE = 0.5
"""Of the memory that is free once the weights are there, for keys and values."""

_TRIAL = ((5, 3, 11, 7, 2, 9, 4), (6, 1, 8))
"""Texts of different lengths, and how many of their last tokens are computed one by one."""
_TRIAL_STEPS = 2

_ALIKE, _ALIKE_ROUNDED = 0.9999, 0.97
"""How alike (correlated) scores must be, in float32 and in types that round more. What does not
know where a row begins, or what it must not see, is far from either."""


class Made(NamedTuple):
    """What runs a model; how long texts may be; and why one at a time (empty: not)."""

    batch: Batch
    context: int
    reason: str


def make(model: Module, defaults: Defaults, spec: ModelSpec, loaded: Loaded) -> Made:
    """Find out how a model can be run, and within what memory; this also compiles its kernels."""
    rows, reason, vocabulary, token_bytes = _try(model, loaded.dtype == "float32")
    gpu = loaded.device == "gpu"
    limit = spec.cache_memory or int(_free(gpu) * _SHARE)
    batch = Batch(
        model,
        rows,
        defaults,
        most=1 if reason else spec.max_batch or _MOST,
        chunk=spec.prefill_chunk or (_CHUNK_GPU if gpu else _CHUNK),
        vocabulary=vocabulary,
        limit=limit,
        token_bytes=token_bytes,
    )
    context = loaded.context_length
    if token_bytes and limit:
        affordable = max(1, limit // token_bytes)
        context = min(context or affordable, affordable)
    return Made(batch, context, reason)


def _try(model: Module, exact: bool) -> tuple[Callable[[], Rows], str, int, int]:
    call: Any = model
    layers = make_prompt_cache(model)
    alone = [_scores_alone(call, text) for text in _TRIAL]
    vocabulary = int(alone[0].shape[-1])
    single: Callable[[], Rows] = SingleRow
    unfit = sorted({type(cache).__name__ for cache in _flat(layers) if not _can_merge(cache)})
    if unfit:
        reason = f"mlx-lm cannot hold several texts in its {' and '.join(unfit)}"
        return single, reason, vocabulary, 0
    token_bytes = 0
    make_rows: Callable[[], Rows] = MergedRows
    if all(type(cache) is KVCache for cache in layers):
        token_bytes = _token_bytes(call, layers)

        def make_rows() -> Rows:
            return SlotRows(len(layers))

    try:
        together = _scores_together(call, make_rows())
    except Exception as error:
        reason = f"mlx-lm cannot compute several texts of it ({type(error).__name__}: {error})"
        return single, reason, vocabulary, 0
    enough = _ALIKE if exact else _ALIKE_ROUNDED
    pairs = [
        (a, b)
        for one, other in zip(alone, together, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    if not all(_alike(a, b) >= enough for a, b in pairs):
        return single, "mlx-lm computes something else for several texts of it", vocabulary, 0
    return make_rows, "", vocabulary, token_bytes


def _scores_alone(model: Any, text: Sequence[int]) -> Any:
    caches = make_prompt_cache(model)
    found = []
    if text[:-_TRIAL_STEPS]:
        mx.eval(model(mx.array([text[:-_TRIAL_STEPS]]), cache=caches))
    for token in text[-_TRIAL_STEPS:]:
        found.append(model(mx.array([[token]]), cache=caches)[:, -1, :].astype(mx.float32))
    mx.eval(found)
    return np.concatenate([np.asarray(scores) for scores in found])


def _scores_together(model: Any, rows: Rows) -> list[Any]:
    """The same scores, computed in rows: where another one came before them, and has gone."""
    texts = [_TRIAL[1], *_TRIAL]
    for text in texts:
        caches = make_prompt_cache(model)
        mx.eval(model(mx.array([text[:-_TRIAL_STEPS]]), cache=caches))
        rows.add(caches, len(text) - _TRIAL_STEPS)
    order = list(range(len(texts)))
    order = [order[row] for row in rows.remove({0})]
    found = []
    for step in range(-_TRIAL_STEPS, 0):
        rows.grow()
        tokens = mx.array([[texts[row][step]] for row in order])
        scores = model(tokens, cache=rows.caches)[:, -1, :].astype(mx.float32)
        mx.eval(scores)
        found.append(np.asarray(scores))
    rows.take_out(0)
    return [np.stack([scores[order.index(row)] for scores in found]) for row in (1, 2)]


def _alike(one: Any, other: Any) -> float:
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return 1.0  # damaged, which the warm-up will say
    one, other = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size else 1.0


def _flat(caches: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for cache in caches:
        flat += _flat(cache.caches) if isinstance(cache, CacheList) else [cache]
    return flat


def _can_merge(cache: Any) -> bool:
    return all(hasattr(cache, name) for name in ("merge",))


def _token_bytes(model: Any, caches: Sequence[Any]) -> int:
    mx.eval(model(mx.array([_TRIAL[1]]), cache=caches))
    return sum(cache.nbytes // cache.keys.shape[2] for cache in caches)


def _free(gpu: bool) -> int:
    """The bytes of memory that are left."""
    if gpu:
        recommended = mx.device_info().get("max_recommended_working_set_size", 0)
        return int(recommended) - mx.get_active_memory()
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
