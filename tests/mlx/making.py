"""A program: writes tiny models with random weights, of architectures with different caches.

python making.py TOKENIZER DIRECTORY NAME…
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.modules["torch"] = None  # type: ignore[assignment] # tokenizers need none; it takes seconds

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten, tree_map_with_path  # noqa: E402

VOCABULARY = 1_536  # that of the embedded model, whose tokenizer they get

_USUAL: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"model_type": "llama", **_USUAL},
    "qwen3": {"model_type": "qwen3", **_USUAL},
    # Keys and values of all tokens in one layer, of the last eight in the others.
    "gemma3": {
        "model_type": "gemma3_text",
        **_USUAL,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 8,
    },
    # States instead of keys and values.
    "mamba": {
        "model_type": "mamba",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "state_size": 4,
        "num_hidden_layers": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
    },
    # Caches that mlx-lm cannot merge.
    "llama4": {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            **_USUAL,
            "num_hidden_layers": 4,
            "attention_bias": False,
            "attention_chunk_size": 64,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 48,
            "num_experts_per_tok": 1,
            "num_local_experts": 2,
            "rope_scaling": None,
            "use_qk_norm": True,
        },
        "eos_token_id": 2,
    },
}


def write(tokenizer: Path, directory: Path, name: str) -> None:
    config = MODELS[name]
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    mx.random.seed(3)

    def spread(path: str, array: mx.array) -> mx.array:
        """Large numbers, so that outputs vary; what scales or counts keeps its value."""
        if array.ndim < 2 or "A_log" in path:
            return array
        return mx.random.normal(array.shape) * 0.4

    model.update(tree_map_with_path(spread, model.parameters()))
    directory.mkdir(parents=True)
    mx.save_safetensors(
        str(directory / "model.safetensors"), dict(tree_flatten(model.parameters()))
    )
    (directory / "config.json").write_text(json.dumps(config))
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copy(file, directory)


def main() -> None:
    tokenizer, directory, *names = sys.argv[1:]
    for name in names:
        write(Path(tokenizer), Path(directory) / name, name)


if __name__ == "__main__":
    main()
