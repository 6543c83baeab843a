"""Running a model: one answer by mlx-lm's ``generate_step``, which knows every model's cache.

How tokens are drawn is ``sampling``'s to know, what becomes of them the engine's.
"""

from __future__ import annotations

from contextlib import closing

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.generate import generate_step
from penstock_server.local.job import Job
from penstock_server.local.serial import Emit

from penstock_mlx.sampling import Defaults, Draw, processors

# Prompt tokens between two looks at whether anybody still waits.
_CHUNK = 512


class _Cancelled(Exception):
    """Nobody waits for this answer any more."""


class Decoder:
    """Continues prompts with one model, one at a time, on the thread that loaded it.

    ``generate_step`` computes one token ahead, so that a cancelled answer costs up to one more.
    """

    def __init__(self, model: Module, defaults: Defaults) -> None:
        self._model = model
        self._defaults = defaults

    def decode(self, job: Job, emit: Emit) -> None:
        """See `Backend.decode`."""

        def look(done: int, total: int) -> None:
            if job.cancelled:
                raise _Cancelled

        draw = Draw(job.sampling, self._defaults)
        tokens = generate_step(
            mx.array(list(job.prompt), dtype=mx.uint32),
            self._model,
            max_tokens=job.limit,
            sampler=draw,
            logits_processors=processors(job.sampling, self._defaults, len(job.prompt)),
            prefill_step_size=_CHUNK,
            prompt_progress_callback=look,
        )
        try:
            with closing(tokens):
                for token, _ in tokens:
                    draw.check()
                    if emit(int(token)):
                        return
        except _Cancelled:
            pass
