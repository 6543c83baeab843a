"""What a model's files tell before it is loaded: how large it will be, and what it can do.

Nothing is read but their beginnings, and nothing is asked of the network. How a model is loaded
is the sidecars' own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the floating-point types that loading may turn into one another."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_LONGEST_HEADER = 100_000_000  # what safetensors itself allows

_GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "HeadsModel")
"""How the names of architectures end that write text."""

_EMBEDDING = ("Model", "ForMaskedLM", "ForPreTraining")
"""How those end of which a plain encoder, or decoder, can be had."""


def find(source: str) -> Path | None:
    """The directory with a model's files: its own, or where the Hub's cache has it.

    None where it is not on this machine (yet).
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    repository = cache / f"models--{source.replace('/', '--')}"
    with suppress(OSError):
        commit = (repository / "refs/main").read_text("utf-8").strip()
        snapshot = repository / "snapshots" / commit
        if (snapshot / "config.json").is_file():
            return snapshot
    return None


def weights_bytes(directory: Path, dtype: str = "auto") -> int:
    """How many bytes a model's weights will take; 0 where its files do not tell.

    ``dtype`` is what floating-point weights are turned into ("auto": what they are). Quantised
    ones stay as they are.
    """
    files = sorted(directory.glob("model*.safetensors")) or sorted(directory.glob("*.safetensors"))
    if not files:
        return sum(file.stat().st_size for file in directory.glob("pytorch_model*.bin"))
    quantised = "quantization_config" in _config(directory) or "quantization" in _config(directory)
    wanted = None if quantised else _BYTES.get(dtype)
    return sum(_tensors_bytes(file, wanted) for file in files)


def embeds(directory: Path) -> bool:
    """Whether a model turns text into vectors, instead of writing text."""
    if (directory / "modules.json").is_file():
        return True  # sentence-transformers' own
    names: Iterable[str] = _config(directory).get("architectures") or ()
    return any(
        name.endswith(_EMBEDDING) and not name.endswith(_GENERATING) for name in map(str, names)
    )


def read_json(file: Path) -> Any:
    """What a JSON file holds; None where there is none. Raises where it is damaged."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def _config(directory: Path) -> Mapping[str, Any]:
    with suppress(ValueError, OSError):  # damaged: loading says so
        config = read_json(directory / "config.json")
        if isinstance(config, dict):
            return config
    return {}


def _tensors_bytes(file: Path, wanted: int | None) -> int:
    """The tensors' bytes by a safetensors file's header; the file's own where it has none."""
    size = file.stat().st_size
    if wanted is None:
        return size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size, _LONGEST_HEADER):
            return size
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return size
    total = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        own = _FLOATS.get(tensor["dtype"])
        total += (end - begin) * wanted // own if own else end - begin
    return total
