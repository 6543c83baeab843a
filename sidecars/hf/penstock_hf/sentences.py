"""What sentence-transformers' files say of a model: how its tokens' vectors become a text's.

Files in, facts out: torch is not needed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.survey import read_json

_POOLINGS: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The configuration's switches, in the order in which several are put together."""

ACTIVATIONS = ("Identity", "Tanh", "GELU", "ReLU", "SiLU")


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer after pooling: where its weights are, and the name of what follows it."""

    directory: Path
    activation: str


@dataclass(frozen=True, slots=True)
class Sentences:
    """How a model's texts become vectors."""

    transformer: Path
    """Where the transformer is."""
    pooling: Sequence[str] = ()
    """Ways of `_POOLINGS`, put together; none: whatever its architecture is usually pooled by."""
    dense: Sequence[Dense] = ()
    normalise: bool = True
    """Whether vectors have the length one."""
    max_length: int = 0
    """The most tokens of a text; 0: the transformer's own."""
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""


def read(directory: Path) -> Sentences:
    """What is said in a model's directory; without sentence-transformers' files, the defaults."""
    modules = read_json(directory / "modules.json")
    if modules is None:
        return Sentences(directory)
    transformer = directory
    pooling: Sequence[str] = ()
    include_prompt = True
    dense: list[Dense] = []
    normalise = False
    for module in modules:
        place = directory / (module.get("path") or "")
        config = read_json(place / "config.json") or {}
        # Their packages move between releases, their names do not.
        kind = str(module["type"]).rpartition(".")[2]
        if kind == "Transformer":
            transformer = place
        elif kind == "Pooling":
            pooling = _pooling(config)
            include_prompt = config.get("include_prompt", True)
        elif kind == "Dense":
            dense.append(_dense(place, config))
        elif kind == "Normalize":
            normalise = True
        elif kind != "Dropout":  # which does nothing but in training
            raise _unsupported(directory, f"its module {module['type']} is not known")
    settings = read_json(transformer / "sentence_bert_config.json") or {}
    texts = read_json(directory / "config_sentence_transformers.json") or {}
    prompts = {name: text for name, text in (texts.get("prompts") or {}).items() if text}
    return Sentences(
        transformer,
        pooling,
        dense,
        normalise,
        settings.get("max_seq_length") or 0,
        bool(settings.get("do_lower_case")),
        # Models that leave the prompt's tokens out of the mean would need to know how many.
        prompts if include_prompt else {},
        texts.get("default_prompt_name") or "",
    )


def _pooling(config: Mapping[str, Any]) -> Sequence[str]:
    modes = config.get("pooling_mode")  # since sentence-transformers 5.2
    if modes is not None:
        chosen = [modes] if isinstance(modes, str) else list(modes)
    else:
        chosen = [name for key, name in _POOLINGS.items() if config.get(key)]
    return tuple(chosen) or ("mean",)


def _dense(place: Path, config: Mapping[str, Any]) -> Dense:
    activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise _unsupported(place, f"the activation {activation} is not known")
    return Dense(place, activation)


def _unsupported(directory: Path, what: str) -> Failure:
    return Failure(v1.ERROR_REASON_UNSUPPORTED_FEATURE, f"{directory}: {what}")
