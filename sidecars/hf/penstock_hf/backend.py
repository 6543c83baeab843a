"""The sidecar's backend: what the engine's thread loads, runs and unloads.

Nothing heavy is imported at this module's top: the server listens, and says that it is loading,
long before torch and transformers are there.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded, Report
from penstock_server.local.job import Job
from penstock_server.local.serial import Emit

if TYPE_CHECKING:
    from penstock_hf.decoder import Decoder


class HFBackend:
    """Runs one Hugging Face model for a `SerialEngine`; everything on the engine's thread.

    Example::

        engine = SerialEngine(HFBackend(ModelSpec("models/tiny")), "tiny")
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._decoder: Decoder | None = None

    def load(self, report: Report) -> Loaded:
        """See `Backend.load`."""
        report(0.0, "importing torch and transformers")
        with _no_garbage_collection():
            from penstock_hf import decoder, loading

            model, loaded = loading.load(self._spec, report)
            self._decoder = decoder.Decoder(model)
        return loaded

    def decode(self, job: Job, emit: Emit) -> None:
        """See `Backend.decode`."""
        assert self._decoder is not None  # loaded before
        self._decoder.decode(job, emit)

    def unload(self) -> None:
        """See `Backend.unload`."""
        self._decoder = None
        torch = sys.modules.get("torch")
        if torch is None:
            return
        # A model's modules refer to one another, and what was frozen is never collected.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Leave out collections while half a million objects are made that stay.

    They would find nothing and take a quarter of the start-up; a later one would stop the event
    loop for a third of a second to look at all of them again, hence the freezing.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
