"""Attention over slots: many sequences' tokens in one row, each looking at its own sequence only.

transformers' models compute everything else token by token, so that tokens of all sequences may
stand in one row ``[1, tokens]``, without padding. Only attention has to know whose they are: models
call the function registered here in place of their own, and a cache that files keys and values
into slots. Which tokens are in a step is not decided here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from penstock_hf.slots import Arena, Place, Shape

NAME = "penstock"
"""What our attention is called among transformers'. No mask is made for names it does not know."""

FORMULA = "penstock_formula"
"""The same, by the plain formula instead of torch's kernels."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """One token for each of an arena's first sequences: the row's tokens ``start`` to ``end``."""

    arena: Arena
    start: int
    end: int
    slots: torch.Tensor
    """0, 1, …: the slots, as an index."""
    positions: torch.Tensor
    """Where in its sequence each token stands."""
    longest: int
    """The tokens of the longest of the sequences, the new one included."""


@dataclass(frozen=True, slots=True)
class Part:
    """Several tokens of one sequence, the first at ``position`` of it."""

    place: Place
    start: int
    end: int
    position: int


class Layout:
    """Whose each token of a step is, and what it may look at."""

    def __init__(self, decoding: Sequence[Decoding], parts: Sequence[Part]) -> None:
        self.decoding = decoding
        self.parts = parts
        self.layer = 0  # whose keys came last, and which attention is therefore about
        self._masks: dict[tuple[int, int], torch.Tensor | None] = {}

    def mask(self, which: int, window: int, groups: int, like: torch.Tensor) -> torch.Tensor | None:
        """What is added to the scores of one of `decoding` (then `parts`), made once a step.

        ``window`` is how far back a token looks (0: to the beginning); ``groups`` how many query
        heads share a key's, which stand one after the other. None: it may look at everything.
        """
        key = (which, window)
        if key not in self._masks:
            count = len(self.decoding)
            self._masks[key] = (
                _decoding_mask(self.decoding[which], window, like)
                if which < count
                else _part_mask(self.parts[which - count], window, groups, like)
            )
        return self._masks[key]


def _decoding_mask(decoding: Decoding, window: int, like: torch.Tensor) -> torch.Tensor | None:
    single = decoding.end - decoding.start == 1
    if single and not 0 < window < decoding.longest:
        return None
    seen = torch.arange(decoding.longest, device=like.device)[None]
    at = decoding.positions[:, None]
    allowed = seen <= at
    if window:
        allowed &= seen > at - window
    return _additive(allowed, like)[:, None, None]


def _part_mask(part: Part, window: int, groups: int, like: torch.Tensor) -> torch.Tensor | None:
    last = part.position + part.end - part.start
    if part.end - part.start == 1 and not 0 < window < last:
        return None
    seen = torch.arange(last, device=like.device)[None]
    at = torch.arange(part.position, last, device=like.device)[:, None]
    allowed = seen <= at
    if window:
        allowed &= seen > at - window
    return _additive(allowed, like).repeat(groups, 1)[None, None]


def _additive(allowed: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(allowed.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(~allowed, -torch.inf)


class _Step(threading.local):
    """The layout of this thread's step; each engine's thread has its own."""

    layout: Layout | None = None


_step = _Step()


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Have models compute by a layout, on this thread."""
    _step.layout = layout
    try:
        yield
    finally:
        _step.layout = None


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call] # __init_subclass__
    """One layer of the cache that models are given: files new keys and values into slots."""

    def __init__(self, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._index = index
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: slots are made before."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """File them; attention finds them there."""
        layout, layer = _step.layout, self._index
        assert layout is not None  # models compute within `laid_out`
        layout.layer = layer
        for group in layout.decoding:
            new = slice(group.start, group.end)
            arena, slots, at = group.arena, group.slots, group.positions
            arena.keys[layer][slots, :, at] = key_states[0, :, new].transpose(0, 1)
            arena.values[layer][slots, :, at] = value_states[0, :, new].transpose(0, 1)
        for part in layout.parts:
            new = slice(part.start, part.end)
            to = slice(part.position, part.position + part.end - part.start)
            arena, index = part.place.arena, part.place.index
            arena.keys[layer][index, :, to] = key_states[0, :, new]
            arena.values[layer][index, :, to] = value_states[0, :, new]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Not asked for: no mask is made."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Positions are always given, so that nobody has to count."""
        return 0

    def get_max_length(self) -> int:
        """Without a bound."""
        return -1


class ShapeLayer(CacheLayerMixin):  # type: ignore[no-untyped-call] # __init_subclass__
    """A layer that only looks at what a model would keep in it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self.shape: Shape | None = None
        self.dtype = torch.float32

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Remember the shapes."""
        self.shape = Shape(
            key_states.shape[1], key_states.shape[3], value_states.shape[1], value_states.shape[3]
        )
        self.dtype = key_states.dtype
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """A first step."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """A first step."""
        return 0

    def get_max_length(self) -> int:
        """Without a bound."""
        return -1


def slot_cache(layers: int) -> Cache:
    """The cache to give to a model that computes within `laid_out`."""
    return Cache(layers=[SlotLayer(index) for index in range(layers)])


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each token over its own sequence, in the shape of transformers' functions.

    ``query`` is ``[1, heads, tokens, size]``; returns ``[1, tokens, heads, size]``. Query heads
    that share a key's head are laid out as more tokens of that head, so that keys are not copied.
    ``softcap`` is Gemma 2's, ``s_aux`` GPT-OSS's sinks.
    """
    layout = _step.layout
    assert layout is not None  # models compute within `laid_out`
    if position_bias is not None:
        raise NotImplementedError("attention with position biases is not known to slots")
    layer = layout.layer
    window = _window(module, layer)
    heads = query.shape[1]
    # Zeros, since there may be tokens that are nobody's.
    output = query.new_zeros(query.shape[2], heads, value.shape[3])
    plain = softcap is None and s_aux is None and _implementation(module) != FORMULA
    for which, group in enumerate(layout.decoding):
        count, to = group.end - group.start, slice(group.start, group.end)
        keys = group.arena.keys[layer][:count, :, : group.longest]
        values = group.arena.values[layer][:count, :, : group.longest]
        groups = heads // keys.shape[1]
        asked = query[0, :, to].transpose(0, 1).reshape(count, keys.shape[1], groups, -1)
        mask = layout.mask(which, window, groups, query)
        found = (
            scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=scaling)
            if plain
            else _formula(asked, keys, values, mask, scaling, softcap, s_aux)
        )
        output[to] = found.reshape(count, heads, -1)
    for which, part in enumerate(layout.parts, len(layout.decoding)):
        count, to = part.end - part.start, slice(part.start, part.end)
        last, index = part.position + count, part.place.index
        keys = part.place.arena.keys[layer][index : index + 1, :, :last]
        values = part.place.arena.values[layer][index : index + 1, :, :last]
        groups = heads // keys.shape[1]
        asked = query[0, :, to].reshape(1, keys.shape[1], groups * count, -1)
        mask = layout.mask(which, window, groups, query)
        found = (
            scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=scaling)
            if plain
            else _formula(asked, keys, values, mask, scaling, softcap, s_aux)
        )
        output[to] = found.reshape(heads, count, -1).transpose(0, 1)
    return output[None], None


def _formula(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value
    # A column that nothing stands behind: what it takes is lost to the others.
    columns, rows = query.shape[1], query.shape[2]
    per_head = sinks.reshape(columns, -1).to(scores.dtype)
    sink = per_head.repeat_interleave(rows // per_head.shape[1], dim=1)[None, :, :, None]
    scores = torch.cat([scores, sink.expand(scores.shape[0], -1, -1, -1)], dim=-1)
    return scores.softmax(-1, dtype=torch.float32)[..., :-1].to(query.dtype) @ value


def _window(module: torch.nn.Module, layer: int) -> int:
    """How far back this layer looks; 0: to the beginning."""
    return window(getattr(module, "config", None), layer)


def window(config: Any, layer: int) -> int:
    """How many tokens a layer's tokens look back on, themselves included; 0: all."""
    size = getattr(config, "sliding_window", None)
    if not size:
        return 0
    types = getattr(config, "layer_types", None)
    return size if types is None or types[layer] == "sliding_attention" else 0


def _implementation(module: torch.nn.Module) -> str:
    return str(getattr(getattr(module, "config", None), "_attn_implementation", NAME))


def register() -> None:
    """Have transformers know of it."""
    for name in (NAME, FORMULA):
        AttentionInterface.register(name, attend)


IMPLEMENTATIONS: Mapping[str, str] = {"auto": NAME, "sdpa": NAME, "eager": FORMULA}
"""What ``--attention`` means for models in slots."""
