"""Models that turn text into vectors, tiny and random, in directories as a user has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from tests.sidecars.vocabularies import byte_level

VOCABULARY = 320
WIDTH = 32
POSITIONS = 64

_USUAL: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "bert": _USUAL,
    "xlm-roberta": {**_USUAL, "pad_token_id": 1, "max_position_embeddings": POSITIONS + 2},
    "modernbert": {
        **_USUAL,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "qwen3": {**_USUAL, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True},
}


def save(directory: Path, architecture: str = "bert", **config: Any) -> Path:
    """Write a model without a head to a directory, and its tokenizer."""
    torch.manual_seed(11)
    shape = AutoConfig.for_model(architecture, **{**ENCODERS[architecture], **config})
    model = AutoModel.from_config(shape)  # type: ignore[no-untyped-call]
    model.save_pretrained(directory)
    inner = Tokenizer.from_str(byte_level().to_str())
    inner.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    # As in many models' files: what truncates there must not truncate here.
    inner.enable_truncation(16)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, pad_token="<|endoftext|>", cls_token="<|im_start|>"
    )
    tokenizer.save_pretrained(directory)
    return directory


def pooled(
    directory: Path,
    pooling: Mapping[str, Any],
    *,
    normalise: bool = True,
    dense: int = 0,
    prompts: Mapping[str, str] | None = None,
    default_prompt: str | None = None,
    max_length: int | None = None,
    extra: Sequence[str] = (),
) -> Path:
    """Add sentence-transformers' files to a model's."""
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *extra]
    kinds += ["Normalize"] if normalise else []
    modules = []
    for index, kind in enumerate(kinds):
        path = "" if kind == "Transformer" else f"{index}_{kind}"
        modules.append(
            {
                "idx": index,
                "name": str(index),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
        )
        if path:
            (directory / path).mkdir()
    write = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": WIDTH, **pooling},
        "config_sentence_transformers.json": {
            "prompts": dict(prompts or {}),
            "default_prompt_name": default_prompt,
        },
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
    }
    if dense:
        write["2_Dense/config.json"] = {
            "in_features": WIDTH,
            "out_features": dense,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }
        torch.manual_seed(5)
        save_file(
            {"linear.weight": torch.randn(dense, WIDTH), "linear.bias": torch.randn(dense)},
            directory / "2_Dense" / "model.safetensors",
        )
    for name, content in write.items():
        (directory / name).write_text(json.dumps(content))
    return directory


def states(directory: Path, text: str) -> torch.Tensor:
    """The last hidden states of a text's tokens, computed alone."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        ids = torch.tensor([tokenizer.encode(text)])
        return model(ids).last_hidden_state[0]  # type: ignore[no-any-return]
