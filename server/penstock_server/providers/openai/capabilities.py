"""What models behind Chat Completions can do: from what their list says, else from a table.

Vendors whose lists tell something: OpenRouter (``supported_parameters``, ``architecture``), Mistral
(``capabilities``), Together (``type``), and most servers a context length. OpenAI's own list tells
nothing but names; the table is kept from developers.openai.com/api/docs/models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from penstock import v1

from penstock_server.providers.openai.chat_json import ModelJson

Capability: TypeAlias = v1.Capability.ValueType

_WRITES: tuple[Capability, ...] = (v1.CAPABILITY_GENERATE, v1.CAPABILITY_STREAM)

# OpenRouter's supported_parameters → ours.
_PARAMETERS: Mapping[str, Capability] = {
    "tools": v1.CAPABILITY_TOOLS,
    "reasoning": v1.CAPABILITY_THINKING,
    "response_format": v1.CAPABILITY_JSON_OBJECT,
    "structured_outputs": v1.CAPABILITY_JSON_SCHEMA,
    "logprobs": v1.CAPABILITY_LOGPROBS,
}

# OpenRouter's architecture.input_modalities → ours.
_MODALITIES: Mapping[str, Capability] = {
    "image": v1.CAPABILITY_IMAGE_INPUT,
    "audio": v1.CAPABILITY_AUDIO_INPUT,
    "file": v1.CAPABILITY_DOCUMENT_INPUT,
}

# Mistral's capabilities → ours.
_FLAGS: Mapping[str, tuple[Capability, ...]] = {
    "completion_chat": _WRITES,
    "function_calling": (v1.CAPABILITY_TOOLS,),
    "vision": (v1.CAPABILITY_IMAGE_INPUT,),
    "audio": (v1.CAPABILITY_AUDIO_INPUT,),
    "reasoning": (v1.CAPABILITY_THINKING,),
}


class _Row(NamedTuple):
    pattern: re.Pattern[str]
    capabilities: tuple[Capability, ...]
    context_length: int = 0
    max_output_tokens: int = 0


_FORMATS = (v1.CAPABILITY_TOOLS, v1.CAPABILITY_JSON_OBJECT, v1.CAPABILITY_JSON_SCHEMA)
_SEES = (v1.CAPABILITY_IMAGE_INPUT, v1.CAPABILITY_DOCUMENT_INPUT)

# OpenAI's families; the first row that fits.
_OPENAI: tuple[_Row, ...] = (
    _Row(re.compile(r"text-embedding-"), (v1.CAPABILITY_EMBED,), 8_191),
    _Row(
        re.compile(r"gpt-5.*-chat"),
        (*_WRITES, *_FORMATS, *_SEES),
        128_000,
        16_384,
    ),
    _Row(
        re.compile(r"gpt-([5-9]|\d\d)"),
        (*_WRITES, *_FORMATS, *_SEES, v1.CAPABILITY_THINKING),
        400_000,
        128_000,
    ),
    _Row(
        re.compile(r"o\d"),
        (*_WRITES, *_FORMATS, *_SEES, v1.CAPABILITY_THINKING),
        200_000,
        100_000,
    ),
    _Row(
        re.compile(r"gpt-4\.1"),
        (*_WRITES, *_FORMATS, *_SEES, v1.CAPABILITY_LOGPROBS),
        1_047_576,
        32_768,
    ),
    _Row(
        re.compile(r"gpt-4o.*-audio|gpt-audio"),
        (*_WRITES, v1.CAPABILITY_TOOLS, v1.CAPABILITY_AUDIO_INPUT),
        128_000,
        16_384,
    ),
    _Row(
        re.compile(r"gpt-4o"),
        (*_WRITES, *_FORMATS, *_SEES, v1.CAPABILITY_LOGPROBS),
        128_000,
        16_384,
    ),
)

# Kind → its table. Azure's models have names of their users' choosing.
_TABLES: Mapping[str, tuple[_Row, ...]] = {"openai": _OPENAI}


def describe(model: v1.Model, listed: ModelJson, kind: str) -> None:
    """Fill in capabilities and limits, and where they come from."""
    row = next((r for r in _TABLES.get(kind, ()) if r.pattern.match(listed.id)), None)
    told = list(dict.fromkeys(_told(listed)))
    if told:
        model.capabilities.extend(told)
        model.capability_source = v1.CAPABILITY_SOURCE_PROVIDER
    elif row is not None:
        model.capabilities.extend(row.capabilities)
        model.capability_source = v1.CAPABILITY_SOURCE_TABLE
    else:
        model.capabilities.extend(_WRITES)  # all that a list of names tells
    model.context_length = _first(_contexts(listed)) or (row.context_length if row else 0)
    model.max_output_tokens = _first(_outputs(listed)) or (row.max_output_tokens if row else 0)


def _told(listed: ModelJson) -> Iterator[Capability]:
    if listed.supported_parameters is not None:
        yield from _WRITES
        for name in listed.supported_parameters:
            if name in _PARAMETERS:
                yield _PARAMETERS[name]
        for name in _field(listed.architecture, "input_modalities") or ():
            if name in _MODALITIES:
                yield _MODALITIES[name]
    elif isinstance(listed.capabilities, dict):
        for flag, capabilities in _FLAGS.items():
            if listed.capabilities.get(flag):
                yield from capabilities
    elif listed.type == "embedding":
        yield v1.CAPABILITY_EMBED


def _contexts(listed: ModelJson) -> Iterable[object]:
    yield from (listed.context_length, listed.context_window)
    yield from (listed.max_context_length, listed.max_model_len)
    yield _field(listed.meta, "n_ctx")
    yield _field(listed.meta, "n_ctx_train")


def _outputs(listed: ModelJson) -> Iterable[object]:
    yield listed.max_completion_tokens
    yield _field(listed.top_provider, "max_completion_tokens")


def _field(told: object, name: str) -> Any:
    return told.get(name) if isinstance(told, dict) else None


def _first(values: Iterable[object]) -> int:
    """The first figure that is one, and that the contract's field can hold."""
    return next((int(v) for v in values if isinstance(v, int | float) and 0 < v < 2**31), 0)
