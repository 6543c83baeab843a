"""What can go wrong with a prompt or a step, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from penstock import v1
from penstock_server.errors import Failure, Violation
from penstock_server.local.backend import OutOfMemory
from transformers import PreTrainedModel

from penstock_hf.slots import is_out_of_memory


def vocabulary(model: PreTrainedModel) -> int:
    """How many tokens the model's embedding knows."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def check_tokens(tokens: Sequence[int], vocabulary: int) -> None:
    """Refuse what the embedding has no row for: on a GPU, it would end the process."""
    stranger = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if stranger is not None:
        problem = (
            f"has the token {stranger}, which the model does not know; its ids end at "
            f"{vocabulary - 1}: tokenizer and model do not fit"
        )
        raise Failure.invalid([Violation("prompt", problem)])


def out_of_memory(error: BaseException, device: torch.device) -> OutOfMemory:
    """What to raise where torch found too little memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return OutOfMemory(f"{type(error).__name__} on {device}")


def failure_of(error: Exception) -> Failure:
    """What to tell whose answer alone made the model fail."""
    if isinstance(error, Failure):
        return error
    if is_out_of_memory(error):
        return no_memory()
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        f"the model failed at this answer: {type(error).__name__}: {' '.join(str(error).split())}",
    )


def no_memory() -> Failure:
    """What to tell who needs more memory than there is, alone."""
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        "there is too little memory for this answer; send a shorter prompt, or bound what is "
        "computed together: --max-batch, --prefill-chunk, --context-length, --cache-memory",
    )


def no_room(limit: int) -> Failure:
    """What to tell whose answer needs more than ``limit`` bytes of keys and values, alone."""
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        f"the answer has outgrown the {limit:,} bytes that there are for keys and values; bound "
        "max_output_tokens, or raise --cache-memory",
    )
