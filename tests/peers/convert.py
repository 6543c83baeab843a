"""A small Llama as a GGUF file, for llama.cpp: ``python convert.py MODEL_DIRECTORY FILE.gguf``.

One that, like models/tiny, has byte-level BPE, a template in a file of its own, and all weights in
one file. They are written as float32, or with ``bfloat16`` as a third argument
in that (norms excepted, as usual). Needs ``gguf`` and numpy alone.

Format: github.com/ggml-org/ggml, docs/gguf.md; names and the order of q and k rows are those of
llama.cpp's own converter for Llama (its rope pairs neighbours, that of transformers pairs halves).
"""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found,unused-ignore]
import numpy as np

# Names in transformers → names in GGUF.
_NAMES = (
    (r"model\.embed_tokens\.weight", "token_embd.weight"),
    (r"model\.norm\.weight", "output_norm.weight"),
    (r"lm_head\.weight", "output.weight"),
    (r"model\.layers\.(\d+)\.input_layernorm\.weight", r"blk.\1.attn_norm.weight"),
    (r"model\.layers\.(\d+)\.post_attention_layernorm\.weight", r"blk.\1.ffn_norm.weight"),
    (r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.weight", r"blk.\1.attn_\2.weight"),
    (r"model\.layers\.(\d+)\.self_attn\.o_proj\.weight", r"blk.\1.attn_output.weight"),
    (r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight", r"blk.\1.ffn_\2.weight"),
)


# As safetensors calls them → how their bytes become float32.
_DTYPES: dict[str, Callable[[bytes], Any]] = {
    "F32": lambda raw: np.frombuffer(raw, dtype=np.float32),
    "F16": lambda raw: np.frombuffer(raw, dtype=np.float16).astype(np.float32),
    "BF16": lambda raw: (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32),
}


def tensors(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, as float32."""
    data = file.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    found = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in about["data_offsets"])
        found[name] = _DTYPES[about["dtype"]](data[begin:end]).reshape(about["shape"])
    return found


def paired(rows: Any, heads: int) -> Any:
    """q or k rows in llama.cpp's order."""
    shape = (heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return rows.reshape(shape).swapaxes(1, 2).reshape(rows.shape)


def convert(model: Path, target: Path, dtype: str = "float32") -> None:
    """Write the file."""
    matrices = {"float32": None, "bfloat16": gguf.GGMLQuantizationType.BF16}[dtype]
    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name(model.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if matrices else gguf.LlamaFileType.ALL_F32)
    words = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if w in special else gguf.TokenType.NORMAL for w, _ in words]
    )
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    if "eos_token_id" in config:
        writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((model / "chat_template.jinja").read_text())
    for name, values in tensors(model / "model.safetensors").items():
        for pattern, written in _NAMES:
            if re.fullmatch(pattern, name):
                if ".q_proj" in name or ".k_proj" in name:
                    values = paired(values, heads if ".q_proj" in name else kv_heads)
                values, raw = np.ascontiguousarray(values), None
                if matrices and values.ndim == 2:
                    values, raw = gguf.quantize(values, matrices), matrices
                writer.add_tensor(re.sub(pattern, written, name), values, raw_dtype=raw)
                break
        else:
            raise SystemExit(f"{name} has no place in GGUF")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
