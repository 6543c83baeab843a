"""Running a model: one answer by ``generate()``, which knows every architecture's cache.

How tokens are drawn is ``sampling``'s to know, what becomes of them the engine's.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.job import Job
from penstock_server.local.serial import Emit
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from penstock_hf.sampling import Defaults, processors

_OURS: Mapping[str, Any] = {
    # Drawn by our own processors, from random numbers of the answer's own.
    "do_sample": False,
    **dict.fromkeys(Defaults.__dataclass_fields__),
    # Kept by the job, which knows the caller's limits and the stop strings.
    **dict.fromkeys(("max_length", "max_new_tokens", "max_time", "stop_strings")),
    # One answer, token by token: no beams, no candidates, nothing that writes ahead.
    "num_beams": 1,
    "num_return_sequences": 1,
    **dict.fromkeys(("num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping")),
    **dict.fromkeys(("constraints", "force_words_ids", "penalty_alpha", "dola_layers")),
    **dict.fromkeys(("use_mtp", "prompt_lookup_num_tokens", "assistant_early_exit")),
    "token_healing": None,
    # A cache always; the model's own kind of it, and nothing compiled behind a caller's back.
    "use_cache": True,
    "cache_implementation": None,
    "cache_config": None,
    "disable_compile": True,
    "compile_config": None,
    # Only the tokens.
    "return_dict_in_generate": False,
    **dict.fromkeys(GenerationConfig.extra_output_flags, False),
}
"""The part of a model's generation_config that is not its own to say here."""


class _Cancelled(Exception):
    """Nobody waits for this answer any more."""


class _Emitter(StoppingCriteria):
    """Hands each token over and says whether to stop.

    As a stopping criterion and not as a streamer: ``generate()`` asks the criteria before it
    tells its streamer, so that a streamer's stop would come one token late.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._stop = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if not self._stop:  # on mps, generate() notices the end a token later
            self._stop = self._emit(int(input_ids[0, -1]))
        return torch.tensor([self._stop], device=input_ids.device)


class Decoder:
    """Continues prompts with one model, one at a time, on the thread that made it.

    A model's own generation_config counts wherever the caller is silent, except for what ends
    an answer and how tokens are drawn, which are ours to do.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._job: Job | None = None
        self._defaults = Defaults.of(model.generation_config)
        self._takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        model.generation_config = copy.deepcopy(model.generation_config)
        for name, value in _OURS.items():
            if hasattr(model.generation_config, name):
                setattr(model.generation_config, name, value)
        self._look_between_layers()

    @torch.inference_mode()
    def decode(self, job: Job, emit: Emit) -> None:
        """See `Backend.decode`."""
        prompt = torch.tensor([job.prompt], device=self._model.device)
        sampling = processors(job.sampling, self._defaults, len(job.prompt), prompt.device)
        # Given, since transformers would otherwise hide tokens that equal the padding's.
        mask = {"attention_mask": torch.ones_like(prompt)} if self._takes_mask else {}
        self._job = job
        try:
            self._model.generate(  # type: ignore[operator]
                prompt,
                generation_config=_limited(job.limit),
                logits_processor=sampling,
                stopping_criteria=StoppingCriteriaList([_Emitter(emit)]),
                **mask,
            )
        except _Cancelled:
            pass
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise _out_of_memory(error) from error
        finally:
            self._job = None

    def _look_between_layers(self) -> None:
        """A long prompt takes long for its first token: look for a cancel at every layer."""

        def look(module: torch.nn.Module, inputs: Any) -> None:
            if self._job is not None and self._job.cancelled:
                raise _Cancelled

        for module in self._model.modules():
            if isinstance(module, torch.nn.ModuleList):
                for layer in module:
                    layer.register_forward_pre_hook(look)


def _limited(tokens: int) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=tokens)  # type: ignore[no-untyped-call]


def _out_of_memory(error: BaseException) -> Failure:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        "there is too little memory for this answer; send a shorter prompt, or bound the "
        f"context with --context-length ({type(error).__name__})",
    )
