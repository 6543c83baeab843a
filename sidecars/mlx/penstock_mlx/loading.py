"""From a directory or a hub id to a model in memory, and why that failed if it did.

How a model is run is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from huggingface_hub import snapshot_download
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import load_model
from penstock import v1
from penstock_server.local.checkpoint import Reason, context_length, explain, resolve, several
from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded, Report
from penstock_server.local.sampling import Defaults
from penstock_server.local.tokenizer import Tokenizer
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

_WEIGHTS_FROM, _WEIGHTS_TO = 0.2, 0.9
"""The part of the progress that reading the weights is."""

_FILES = ("*.json", "*.jinja", "*.model", "*.py", "*.tiktoken", "*.txt", "model*.safetensors")
"""What is downloaded of a model: other formats of the same weights are not."""

_UNSUPPORTED = v1.ERROR_REASON_UNSUPPORTED_FEATURE
_UNAVAILABLE = v1.ERROR_REASON_SIDECAR_UNAVAILABLE
_OTHER_WEIGHTS = "its weights are not those that its config.json describes"
_REASONS: Sequence[Reason] = (
    Reason(
        "ValueError",
        "trust_remote_code",
        _UNSUPPORTED,
        "it brings Python code of its own; start with --trust-remote-code if you trust it",
    ),
    Reason("ValueError", "Model type", _UNSUPPORTED, "mlx-lm runs no model of its architecture"),
    Reason("ValueError", "supported", _UNSUPPORTED, "mlx-lm does not read its quantisation"),
    Reason("ValueError", "parameters", _UNSUPPORTED, _OTHER_WEIGHTS),  # missing, or not in model
    Reason("ValueError", "shape", _UNSUPPORTED, _OTHER_WEIGHTS),
    Reason("RuntimeError", "safetensors", _UNAVAILABLE, "its weights are damaged; copy them anew"),
    Reason("RuntimeError", "allocate", _UNAVAILABLE, "there is too little memory for it"),
)
"""What mlx and mlx-lm say of models that they cannot load."""

_Model = tuple[Module, Defaults, Loaded]


def load(spec: ModelSpec, report: Report) -> _Model:
    """Load a model and its tokenizer. Raises a `Failure` that says what to do.

    A directory is read without touching the network; anything else is a hub id, which is
    downloaded or taken from the Hub's cache as usual.
    """
    try:
        return _load(spec, report)
    except Exception as error:
        failure = explain(error, spec.source, _REASONS)
        if failure is None:
            raise
        raise failure from error


def _load(spec: ModelSpec, report: Report) -> _Model:
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source, is_local = resolve(spec.source)
    if not is_local:
        report(0.05, "downloading, unless it is in the Hub's cache")
        source = snapshot_download(source, allow_patterns=list(_FILES))
    directory = Path(source)
    report(0.1, "reading the configuration and the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(
        # Said, not left out: transformers would ask a question at the terminal.
        directory,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
    )
    report(_WEIGHTS_FROM, "reading the weights")
    model, config = load_model(directory, lazy=True, trust_remote_code=spec.trust_remote_code)
    device = mx.default_device().type
    _convert(model, spec.dtype, device)
    _read_weights(model, report)
    generation = _generation_config(directory)
    text = config.get("text_config") or config
    ends = (config.get("eos_token_id"), text.get("eos_token_id"), tokenizer.eos_token_id)
    loaded = Loaded(
        tokenizer=Tokenizer(tokenizer),
        vocabulary=text.get("vocab_size") or 0,
        context_length=context_length(text.get, spec.context_length),
        max_output_tokens=generation.get("max_new_tokens") or 0,
        # Fine-tuned models often leave the base model's end in their configuration, and the end
        # that they were taught in their tokenizer.
        end=frozenset(token for end in ends for token in several(end)),
        stop=tuple(several(generation.get("stop_strings"))),
        device="gpu" if device == mx.gpu else "cpu",
        dtype=_dtype(model, config),
        weights_bytes=sum(array.nbytes for array in _weights(model)),
    )
    return model, Defaults.of(generation.get), loaded


def _convert(model: Module, dtype: str, device: Any) -> None:
    """Have the weights in another floating-point type, once they are read."""
    if dtype in ("auto", "fastest"):
        if device == mx.gpu:
            return  # the checkpoint's own
        # Right everywhere, and the only one that BLAS computes with; bfloat16 is emulated.
        dtype = "float32"
    wanted = getattr(mx, dtype)
    # Some weights mean nothing in fewer bits, which their models know.
    may = getattr(model, "cast_predicate", lambda name: True)

    def convert(name: str, array: mx.array) -> mx.array:
        return array.astype(wanted) if may(name) and _is_float(array) else array

    model.update(tree_map_with_path(convert, model.parameters()))  # type: ignore[no-untyped-call]


def _read_weights(model: Module, report: Report) -> None:
    weights = _weights(model)
    width = _WEIGHTS_TO - _WEIGHTS_FROM
    for count, array in enumerate(weights):
        mx.eval(array)
        # As far as it is worth a message, at most.
        if count % (len(weights) // 100 + 1) == 0:
            report(_WEIGHTS_FROM + width * count / len(weights), "reading the weights")


def _dtype(model: Module, config: Mapping[str, Any]) -> str:
    """What the weights are, in a word: "4-bit" where they are quantised."""
    bits = (config.get("quantization") or {}).get("bits")
    if bits:
        return f"{bits}-bit"
    largest = max(filter(_is_float, _weights(model)), key=lambda array: array.size)
    return str(largest.dtype).removeprefix("mlx.core.")


def _weights(model: Module) -> Sequence[mx.array]:
    flat: Any = tree_flatten(model.parameters())  # type: ignore[no-untyped-call]
    return [array for _, array in flat]


def _is_float(array: mx.array) -> bool:
    return mx.issubdtype(array.dtype, mx.floating)


def _generation_config(directory: Path) -> Mapping[str, Any]:
    file = directory / "generation_config.json"
    content: Mapping[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return content
