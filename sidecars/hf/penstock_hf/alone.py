"""Running a model for one at a time: any architecture, with whatever it keeps between tokens.

For models that ``slots`` cannot hold. How tokens are drawn is ``sampling``'s to know.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from penstock_server.local.backend import Outcome
from penstock_server.local.job import Job
from penstock_server.local.sampling import Defaults
from transformers import PreTrainedModel

from penstock_hf.failures import check_tokens, out_of_memory, vocabulary
from penstock_hf.sampling import Draw, draw
from penstock_hf.slots import is_out_of_memory


class _Cancelled(Exception):
    """Nobody waits for this answer any more."""


class OneAtATime:
    """Computes for one job, token by token, as ``generate()`` does; the others wait their turn.

    The model makes its own kind of cache, and says itself how its inputs go on from one token to
    the next. A prompt is computed in one go, which holds up nobody, and is given up between two
    layers where its caller goes.

    Example::

        alone = OneAtATime(model, defaults)
        alone.join(job)
        outcomes = alone.step()
    """

    most = 1

    def __init__(self, model: PreTrainedModel, defaults: Defaults) -> None:
        self._model = model
        self._defaults = defaults
        self._vocabulary = vocabulary(model)
        self._takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        self._job: Job | None = None
        self._kwargs: dict[str, Any] = {}
        self._begun = False
        self._look_between_layers()

    def join(self, job: Job) -> bool:
        """See `Backend.join`."""
        if self._job is not None:
            return False
        check_tokens(job.tokens, self._vocabulary)
        if not isinstance(job.memo, Draw):
            job.memo = Draw(job, self._defaults)
        images: Mapping[str, Any] = job.images if isinstance(job.images, Mapping) else {}
        self._kwargs = {"use_cache": True} | {
            name: value.to(self._model.device) if isinstance(value, torch.Tensor) else value
            for name, value in images.items()
        }
        if self._takes_mask:
            # Given, since transformers would otherwise hide tokens that equal the padding's.
            self._kwargs["attention_mask"] = torch.ones(
                1, len(job.tokens), dtype=torch.long, device=self._model.device
            )
        self._job, self._begun = job, False
        return True

    def leave(self, job: Job) -> None:
        """See `Backend.leave`."""
        if job is self._job:
            self._job, self._kwargs = None, {}

    def step(self) -> list[Outcome]:
        """See `Backend.step`."""
        job = self._job
        if job is None:
            return []
        try:
            logits = self._forward(job)
        except _Cancelled:
            return []
        except Exception as error:
            if is_out_of_memory(error):
                self.leave(job)
                raise out_of_memory(error, self._model.device) from error
            raise
        assert isinstance(job.memo, Draw)
        [drawn] = draw(logits, [job.memo])
        if drawn.failure is not None:
            return [Outcome(job, failure=drawn.failure)]
        return [Outcome(job, drawn.token, drawn.scores)]

    def figures(self) -> dict[str, int]:
        """What `Backend.measure` tells: what models keep for themselves is not known."""
        return {}

    def _forward(self, job: Job) -> torch.Tensor:
        model: Any = self._model  # torch's types take its methods for tensors
        ids = torch.tensor([job.tokens], device=model.device)
        inputs = model.prepare_inputs_for_generation(
            ids,
            next_sequence_length=1 if self._begun else None,
            is_first_iteration=not self._begun,
            **self._kwargs,
        )
        output = model(**inputs, return_dict=True)
        self._kwargs = model._update_model_kwargs_for_generation(output, self._kwargs)
        self._begun = True
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _look_between_layers(self) -> None:
        """A long prompt takes long for its first token: look for a cancel at every layer."""

        def look(module: torch.nn.Module, inputs: Any) -> None:
            if self._job is not None and self._job.cancelled:
                raise _Cancelled

        for module in self._model.modules():
            if isinstance(module, torch.nn.ModuleList):
                for layer in module:
                    layer.register_forward_pre_hook(look)
