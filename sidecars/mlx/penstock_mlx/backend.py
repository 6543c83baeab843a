"""The sidecar's backend: what the engine's thread loads, runs and unloads.

Nothing heavy is imported at this module's top: the server listens, and says that it is loading,
before mlx and transformers are there.
"""

from __future__ import annotations

import gc
import sys
import threading
from typing import TYPE_CHECKING

from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded, Report
from penstock_server.local.job import Job
from penstock_server.local.serial import Emit

from penstock_mlx import runtime

if TYPE_CHECKING:
    from penstock_mlx.decoder import Decoder


# What is prepared is the process's, and so is the memory.
_one_at_a_time = threading.Lock()


class MLXBackend:
    """Runs one MLX model for a `SerialEngine`; everything on the engine's thread.

    That thread loads the model too: mlx's arrays belong to the thread whose streams made them.

    Example::

        engine = SerialEngine(MLXBackend(ModelSpec("models/tiny")), "tiny")
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._decoder: Decoder | None = None

    def load(self, report: Report) -> Loaded:
        """See `Backend.load`."""
        report(0.0, "waiting for another model to be loaded")
        with _one_at_a_time:
            report(0.01, "importing mlx")
            runtime.prepare(self._spec.device, self._spec.threads)
            from penstock_mlx import decoder, loading

            model, defaults, loaded = loading.load(self._spec, report)
        self._decoder = decoder.Decoder(model, defaults)
        return loaded

    def decode(self, job: Job, emit: Emit) -> None:
        """See `Backend.decode`."""
        assert self._decoder is not None  # loaded before
        self._decoder.decode(job, emit)

    def unload(self) -> None:
        """See `Backend.unload`."""
        self._decoder = None
        gc.collect()  # a model's modules refer to one another
        mlx = sys.modules.get("mlx.core")
        if mlx is not None:
            mlx.clear_cache()
