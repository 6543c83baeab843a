"""Copies of the embedded model with something wrong, and how a sidecar should put it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from penstock import v1

from tests.support.processes import TINY


class Broken(NamedTuple):
    """What is done to the copy; the reason and a word that callers and operators then get."""

    spoil: Callable[[Path], object]
    reason: v1.ErrorReason.ValueType
    word: str


def _edit(**changes: Any) -> Callable[[Path], object]:
    def edit(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def _write(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda model: (model / file).write_bytes(content)


def _not_a_number(model: Path) -> None:
    """Make all weights of one layer NaN, as a training that diverged does."""
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    first, last = header["model.norm.weight"]["data_offsets"]
    content[start + first : start + last] = b"\xc0\x7f" * ((last - first) // 2)  # in bfloat16
    path.write_bytes(content)


MODELS: Mapping[str, Broken] = {
    "absent": Broken(shutil.rmtree, v1.ERROR_REASON_MODEL_NOT_FOUND, "is no directory"),
    "empty": Broken(
        lambda model: (model / "config.json").unlink(),
        v1.ERROR_REASON_MODEL_NOT_FOUND,
        "no config.json",
    ),
    "unknown": Broken(
        _edit(model_type="flux_capacitor"),
        v1.ERROR_REASON_UNSUPPORTED_FEATURE,
        "flux_capacitor",
    ),
    "deeper": Broken(
        _edit(num_hidden_layers=9), v1.ERROR_REASON_UNSUPPORTED_FEATURE, "not those that"
    ),
    "wider": Broken(_edit(vocab_size=99), v1.ERROR_REASON_UNSUPPORTED_FEATURE, "not those that"),
    "coded": Broken(
        _edit(model_file="own.py"), v1.ERROR_REASON_UNSUPPORTED_FEATURE, "--trust-remote-code"
    ),
    "packed": Broken(
        _edit(quantization_config={"quant_method": "modelopt", "quant_algo": "odd"}),
        v1.ERROR_REASON_UNSUPPORTED_FEATURE,
        "quantisation",
    ),
    "weightless": Broken(
        lambda model: (model / "model.safetensors").unlink(),
        v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
        "cannot be read",
    ),
    "scribbled": Broken(
        _write("model.safetensors", b"not weights at all"),
        v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
        "damaged",
    ),
    "cut": Broken(
        lambda model: _write(
            "model.safetensors", (TINY / "model.safetensors").read_bytes()[:1_000_000]
        )(model),
        v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
        "damaged",
    ),
    "unreadable": Broken(
        _write("config.json", b"{"), v1.ERROR_REASON_SIDECAR_UNAVAILABLE, "damaged"
    ),
    "nonsense": Broken(_not_a_number, v1.ERROR_REASON_ENGINE_FAILURE, "NaN"),
}


def make(name: str, where: Path) -> Path:
    """Make one of `MODELS`."""
    model = where / name
    model.mkdir()
    for file in [*TINY.glob("*.json"), *TINY.glob("*.jinja"), *TINY.glob("*.safetensors")]:
        shutil.copy(file, model)
    MODELS[name].spoil(model)
    return model
