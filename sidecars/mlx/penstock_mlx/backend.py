"""The sidecar's backend: what the engine's thread loads, runs and unloads.

Nothing heavy is imported at this module's top: the server listens, and says that it is loading,
before mlx and transformers are there.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from penstock import v1
from penstock_server.local.backend import Outcome, written
from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded, Report
from penstock_server.local.job import Job
from penstock_server.telemetry import log

from penstock_mlx import runtime

if TYPE_CHECKING:
    from penstock_mlx.batch import Batch


# What is prepared is the process's, and so is the memory.
_loading_alone = threading.Lock()


class MLXBackend:
    """Runs one MLX model for a `BatchEngine`; everything on the engine's thread.

    That thread loads the model too: mlx's arrays belong to the thread whose streams made them.

    Example::

        engine = BatchEngine(MLXBackend(ModelSpec("models/tiny")), "tiny")
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._batch: Batch | None = None
        self._figures: dict[str, int] = {}
        """What `measure` tells: plain numbers, written by the engine's thread."""
        self._weights = 0

    def load(self, report: Report) -> Loaded:
        """See `Backend.load`."""
        report(0.0, "waiting for another model to be loaded")
        with _loading_alone:
            report(0.01, "importing mlx")
            runtime.prepare(self._spec.device, self._spec.threads)
            from penstock_mlx import loading, running

            model, defaults, loaded = loading.load(self._spec, report)
            report(0.92, "seeing whether it can be batched")
            made = running.make(model, defaults, self._spec, loaded)
        if made.reason:
            log(logging.WARNING, "one answer at a time", source=self._spec.source, why=made.reason)
        self._batch, self._weights = made.batch, loaded.weights_bytes
        self._warm_up(loaded)
        self._count()
        return dataclasses.replace(
            loaded,
            context_length=made.context,
            max_running=made.batch.most,
            one_at_a_time=made.reason,
        )

    def join(self, job: Job) -> bool:
        """See `Backend.join`."""
        assert self._batch is not None  # loaded before
        joined = self._batch.join(job)
        self._count()
        return joined

    def step(self) -> Iterable[Outcome]:
        """See `Backend.step`."""
        assert self._batch is not None
        outcomes = self._batch.step()
        self._count()
        return outcomes

    def leave(self, job: Job) -> None:
        """See `Backend.leave`."""
        assert self._batch is not None
        self._batch.leave(job)
        self._count()

    def measure(self, stats: v1.EngineStats) -> None:
        """See `Backend.measure`."""
        for name, value in self._figures.items():
            setattr(stats, name, value)

    def unload(self) -> None:
        """See `Backend.unload`."""
        self._batch = None
        self._figures = {}
        gc.collect()  # a model's modules refer to one another
        mlx = sys.modules.get("mlx.core")
        if mlx is not None:
            mlx.clear_cache()

    def _warm_up(self, loaded: Loaded) -> None:
        """Draw tokens in the way that the engine's own warm-up does not: by chance."""
        sampling = v1.Sampling(temperature=1, top_p=0.9, top_k=40)
        job = Job([0], loaded.tokenizer.text_stream(), sampling, limit=2)
        for _ in written(self, job, 2):
            pass

    def _count(self) -> None:
        batch = self._batch
        assert batch is not None
        self._figures = {
            "max_running_requests": batch.most,
            "weights_bytes": self._weights,
            **batch.figures(),
        }
