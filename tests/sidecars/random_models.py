"""Models of many architectures, tiny and with random weights, in directories as a user has them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from tests.sidecars.vocabularies import END, chat_tokenizer

VOCABULARY = 320
CONTEXT = 256

_USUAL: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": END,
    "pad_token_id": 0,
    "initializer_range": 0.4,  # large, so that outputs vary
}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "vocab_size": VOCABULARY}
_GEMMA = {
    **_USUAL,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "tie_word_embeddings": False,  # tied and random, it only repeats
}

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "llama": {**_USUAL, "tie_word_embeddings": True},
    "mistral": {**_USUAL, "sliding_window": 8},
    "qwen2": _USUAL,
    "qwen3": _USUAL,
    "qwen3_moe": {
        **_USUAL,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": {**_USUAL, "sliding_window": None},
    "gpt2": {**_GPT2, "bos_token_id": 0, "eos_token_id": END, "initializer_range": 0.4},
    "gpt_neox": {**_USUAL, "rotary_pct": 0.5},
    "olmo2": _USUAL,
    "granite": {**_USUAL, "attention_multiplier": 0.3, "logits_scaling": 0.5},
    "smollm3": {**_USUAL, "no_rope_layers": [1, 0]},
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": END,
        "pad_token_id": 0,
        "init_std": 0.4,
    },
    "gpt_oss": {
        **_USUAL,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "deepseek_v3": {
        **_USUAL,
        "head_dim": 4,
        "num_key_value_heads": 4,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 6,
    },
    "lfm2": {**_USUAL, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "falcon_h1": {
        **_USUAL,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    },
    "qwen3_next": {
        **_USUAL,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "mamba": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "state_size": 4,
        "num_hidden_layers": 2,
        "bos_token_id": 0,
        "eos_token_id": END,
        "pad_token_id": 0,
        "initializer_range": 0.4,
    },
}


def save(
    directory: Path,
    architecture: str = "llama",
    generation: Mapping[str, Any] | None = None,
    template: bool = True,
    **config: Any,
) -> Path:
    """Write a model to a directory; ``generation`` is its generation_config's content."""
    torch.manual_seed(7)
    settings = {**ARCHITECTURES[architecture], **config}
    shape = AutoConfig.for_model(architecture, **settings)
    model = AutoModelForCausalLM.from_config(shape)  # type: ignore[no-untyped-call]
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=END, pad_token_id=0, **(generation or {})
    )
    model.save_pretrained(directory)
    tokenizer = chat_tokenizer() if template else chat_tokenizer(None)
    tokenizer.save_pretrained(directory)
    return directory


def inflate(directory: Path, intermediate_size: int) -> Path:
    """Make a Llama of `save` as large as you like, of zeros that take no space on the disk."""
    config = json.loads((directory / "config.json").read_text())
    was = config["intermediate_size"]
    (directory / "config.json").write_text(
        json.dumps({**config, "intermediate_size": intermediate_size})
    )
    weights = directory / "model.safetensors"
    with weights.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    end = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            shape = [intermediate_size if size == was else size for size in tensor["shape"]]
            begin, end = end, end + 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    with weights.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        stream.truncate(8 + len(raw) + end)
    return directory
