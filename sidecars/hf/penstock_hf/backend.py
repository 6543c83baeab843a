"""The sidecar's backend: what the engine's thread loads, runs and unloads.

Nothing heavy is imported at this module's top: the server listens, and says that it is loading,
long before torch and transformers are there.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from penstock import v1
from penstock_server.local.backend import Outcome
from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded, Report
from penstock_server.local.job import Job
from penstock_server.telemetry import log

from penstock_hf import process

if TYPE_CHECKING:
    from penstock_hf.alone import OneAtATime
    from penstock_hf.batch import SlotBatch


class HFBackend:
    """Runs one Hugging Face model for a `BatchEngine`; everything on the engine's thread.

    Example::

        engine = BatchEngine(HFBackend(ModelSpec("models/tiny")), "tiny")
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._batch: SlotBatch | OneAtATime | None = None
        self._weights = 0
        self._figures: dict[str, int] = {}
        """What `measure` tells: plain numbers, written by the engine's thread."""
        self._inference: Any = None

    def load(self, report: Report) -> Loaded:
        """See `Backend.load`."""
        report(0.0, "waiting for another model to be loaded")
        with process.exclusive():
            report(0.01, "importing torch and transformers")
            import torch

            from penstock_hf import loading, running

            self._inference = torch.inference_mode
            with torch.inference_mode():
                model, defaults, loaded = loading.load(self._spec, report)
                report(0.92, "seeing whether it can be batched")
                self._batch, context, reason = running.make(model, defaults, self._spec, loaded)
        if reason:
            log(logging.WARNING, "one answer at a time", source=self._spec.source, why=reason)
        self._count()
        return dataclasses.replace(
            loaded, context_length=context, max_running=self._batch.most, one_at_a_time=reason
        )

    def join(self, job: Job) -> bool:
        """See `Backend.join`."""
        assert self._batch is not None  # loaded before
        with self._inference():
            joined = self._batch.join(job)
        self._count()
        return joined

    def step(self) -> Iterable[Outcome]:
        """See `Backend.step`."""
        assert self._batch is not None
        with self._inference():
            outcomes = self._batch.step()
        self._count()
        return outcomes

    def leave(self, job: Job) -> None:
        """See `Backend.leave`."""
        assert self._batch is not None
        with self._inference():
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
        process.collect()

    def _count(self) -> None:
        batch = self._batch
        assert batch is not None
        self._figures = {"max_running_requests": batch.most, **batch.figures()}
