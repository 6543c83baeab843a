"""The sidecar's backend of models that turn text into vectors; on the engine's thread.

Nothing heavy is imported at this module's top; see ``backend``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock_server.local.command import ModelSpec
from penstock_server.local.embedding import Text, Vector
from penstock_server.local.engine import Loaded, Report

from penstock_hf import process

if TYPE_CHECKING:
    from penstock_hf.encoder import Encoder


class HFEmbeddingBackend:
    """Runs one Hugging Face model for an `EmbeddingEngine`.

    Example::

        engine = EmbeddingEngine(HFEmbeddingBackend(ModelSpec("minilm")), "minilm")
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._encoder: Encoder | None = None

    def load(self, report: Report) -> Loaded:
        """See `Loadable.load`."""
        report(0.0, "waiting for another model to be loaded")
        with process.exclusive():
            report(0.01, "importing torch and transformers")
            from penstock_hf import encoder

            self._encoder, loaded = encoder.load(self._spec, report)
        return loaded

    def embed(self, texts: Sequence[Text]) -> Sequence[Vector]:
        """See `EmbeddingBackend.embed`."""
        assert self._encoder is not None  # loaded before
        return self._encoder.embed(texts)

    def unload(self) -> None:
        """See `Loadable.unload`."""
        self._encoder = None
        process.collect()
