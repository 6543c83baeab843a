"""Whether a model can run in slots: by what it says of itself, and by trying.

Why it cannot is told to the operator; the model is then run for one caller at a time.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence

import torch
from penstock_server.telemetry import log
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from penstock_hf import packing
from penstock_hf.attention import (
    IMPLEMENTATIONS,
    Decoding,
    Layout,
    Part,
    ShapeLayer,
    laid_out,
    register,
    slot_cache,
    window,
)
from penstock_hf.slots import Shape, Slots

_LAYER_TYPES = {"full_attention", "sliding_attention"}

_SAMPLE = 13
"""Tokens of the text that is computed both ways."""

_LONGEST_SAMPLE = 64
"""… where a sliding window makes no difference to shorter ones."""

_TOLERANCE = {torch.float32: 2e-3, torch.float64: 1e-6}
"""How far scores may be apart, as a share of the largest one; half precision: `_COARSE`."""

_COARSE = 0.15


class Unfit(Exception):
    """The model cannot run in slots; the message says why."""


def fit(model: PreTrainedModel, attention: str) -> tuple[Sequence[Shape], torch.dtype]:
    """Have a model compute in slots; returns what its layers keep for each token, and in what type.

    ``attention`` is the operator's choice. A sample is computed by the model's own way first, then
    in slots: in parts, beside another sequence, token by token. Raises `Unfit` where the model
    says that it is of another kind, or where the two differ; the model is then as it was.
    Its weights are packed (``packing``) where it computes the same with that.
    """
    name = IMPLEMENTATIONS.get(attention)
    if name is None:
        raise Unfit(f"attention {attention!r} is for one text at a time")
    _look(model)
    config = model.config.get_text_config()
    own = model.config._attn_implementation
    sample = _sample(model)
    expected = model(input_ids=sample, use_cache=False).logits[0].float()
    shapes, dtype = _shapes(model, sample, config.num_hidden_layers)
    register()
    try:
        model.set_attn_implementation(name)
        apart = _apart(_in_slots(model, sample, shapes, dtype), expected)
        if not apart <= _TOLERANCE.get(dtype, _COARSE):
            raise Unfit(f"its scores came out differently in slots (by {apart:.2g})")
    except Exception as error:
        model.set_attn_implementation(own)
        if isinstance(error, Unfit):
            raise
        raise Unfit(f"it does not run in slots ({type(error).__name__}: {error})") from error
    _pack(model, lambda: _apart(_in_slots(model, sample, shapes, dtype), expected))
    return shapes, dtype


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far scores are apart, as a share of the largest one."""
    largest = max(float(expected.abs().max()), 1e-6)
    return float((found.float() - expected).abs().max()) / largest


def _pack(model: PreTrainedModel, apart: Callable[[], float]) -> None:
    if not packing.pack(model):
        return
    try:
        packs = apart() <= _TOLERANCE[torch.float32]
    except Exception as error:  # it looks at weights in a way of its own
        log(logging.INFO, "weights are left as they are", why=f"{type(error).__name__}: {error}")
        packs = False
    if not packs:
        packing.unpack(model)


def _look(model: PreTrainedModel) -> None:
    """Refuse what is known to keep something else than keys and values."""
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        raise Unfit("its attention cannot be replaced")
    if config.is_encoder_decoder:
        raise Unfit("it has an encoder, too")
    others = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if others:
        raise Unfit(f"it has layers of the kind {sorted(others)[0]}")
    if getattr(model, "_is_stateful", False):
        raise Unfit("it keeps a state instead of keys and values")
    if getattr(config, "attention_chunk_size", None):
        raise Unfit("its attention is in chunks")
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise Unfit("its positions cannot be given")


def _sample(model: PreTrainedModel) -> torch.Tensor:
    config = model.config.get_text_config()
    layers = range(config.num_hidden_layers)
    widest = max((window(config, layer) for layer in layers), default=0)
    length = max(_SAMPLE, widest + 5) if widest + 5 <= _LONGEST_SAMPLE else _SAMPLE
    numbers = torch.Generator().manual_seed(1)
    sample = torch.randint(0, config.vocab_size, (1, length), generator=numbers)
    return sample.to(model.device)


def _shapes(
    model: PreTrainedModel, sample: torch.Tensor, layers: int
) -> tuple[Sequence[Shape], torch.dtype]:
    probes = [ShapeLayer() for _ in range(layers)]
    model(input_ids=sample, past_key_values=Cache(layers=list(probes)), use_cache=True)
    shapes = [probe.shape for probe in probes if probe.shape is not None]
    if len(shapes) != layers:
        raise Unfit("some of its layers keep nothing, or share what others keep")
    return shapes, probes[0].dtype


def _in_slots(
    model: PreTrainedModel, sample: torch.Tensor, shapes: Sequence[Shape], dtype: torch.dtype
) -> torch.Tensor:
    """The sample's scores: all but the last three tokens in two parts, those one by one."""
    device = sample.device
    slots = Slots(shapes, dtype, device)
    cache = slot_cache(len(shapes))
    length = sample.shape[1]
    places = [slots.take(name, length) for name in ("one", "other")]
    found: list[torch.Tensor] = []

    def compute(layout: Layout, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with laid_out(layout):
            output = model(
                input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    split = (length - 3) // 2
    for begin, end in ((0, split), (split, length - 3)):
        count = end - begin
        # The other sequence is the same, the other way round: it must not be seen.
        parts = [Part(places[1], 0, count, begin), Part(places[0], count, 2 * count, begin)]
        ids = torch.cat([sample.flip(1)[:, begin:end], sample[:, begin:end]], dim=1)
        at = torch.arange(begin, end, device=device).repeat(2)[None]
        found.append(compute(Layout([], parts), ids, at)[count:])
        for place in places:
            place.length = end
    for place in places:
        slots.start_decoding(place)
    arena = places[0].arena
    order = [place.owner for place in arena.places]
    for at_ in range(length - 3, length):
        positions = torch.full((2,), at_, device=device)
        rows = {"one": sample[0, at_], "other": sample[0, length - 1 - at_]}
        group = Decoding(arena, 0, 2, torch.arange(2, device=device), positions, at_ + 1)
        ids = torch.stack([rows[name] for name in order])[None]
        logits = compute(Layout([group], []), ids, positions[None])
        found.append(logits[order.index("one")][None])
        for place in places:
            place.length = at_ + 1
    return torch.cat(found)
