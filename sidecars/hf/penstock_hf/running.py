"""How a loaded model is run: in slots for many at once, or for one at a time, and within what.

Which memory there is, and how large steps are, is decided here; how they are computed is not.
"""

from __future__ import annotations

import torch
from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded
from penstock_server.local.memory import memory
from penstock_server.local.sampling import Defaults
from transformers import PreTrainedModel

from penstock_hf.alone import OneAtATime
from penstock_hf.batch import SlotBatch
from penstock_hf.fitting import Unfit, fit
from penstock_hf.slots import Slots

_MOST = {"cpu": 64, "mps": 64}
_MOST_ELSEWHERE = 256
"""How many answers are computed at a time, where the operator does not say: by device."""

_CHUNK = {"cpu": 128, "mps": 512}
_CHUNK_ELSEWHERE = 2_048
"""Prompt tokens a step: as many as keep the device busy, and no more."""

_SHARE = 0.5
"""Of the memory that is free once the weights are there, for keys and values."""


def make(
    model: PreTrainedModel, defaults: Defaults, spec: ModelSpec, loaded: Loaded
) -> tuple[SlotBatch | OneAtATime, int, str]:
    """What runs the model; how many tokens it takes then; and why one at a time (empty: not)."""
    kind = model.device.type
    if loaded.image_reader is not None:
        reason = "it reads images, too"
        return OneAtATime(model, defaults), loaded.context_length, reason
    try:
        shapes, dtype = fit(model, spec.attention)
    except Unfit as error:
        return OneAtATime(model, defaults), loaded.context_length, str(error)
    limit = spec.cache_memory or int(_free(model.device) * _SHARE)
    slots = Slots(shapes, dtype, model.device, limit)
    batch = SlotBatch(
        model,
        slots,
        defaults,
        most=spec.max_batch or _MOST.get(kind, _MOST_ELSEWHERE),
        chunk=spec.prefill_chunk or _CHUNK.get(kind, _CHUNK_ELSEWHERE),
    )
    # Moving to a larger slot takes both.
    affordable = 1 << max(0, (2 * limit // 3 // slots.token_bytes).bit_length() - 1)
    context = min(loaded.context_length or affordable, affordable)
    return batch, context, ""


def _free(device: torch.device) -> int:
    """The bytes of memory that the device has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return memory().available
