"""From a directory or a hub id to a model in memory, and why that failed if it did.

How a model is run is not known here.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.checkpoint import Reason, context_length, explain, resolve, several
from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded, Report
from penstock_server.local.sampling import Defaults
from penstock_server.local.tokenizer import Tokenizer
from penstock_server.telemetry import log
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from penstock_hf.pictures import PictureReader

# The progress hook is the process's, and memory is, too: one model after the other.
_one_at_a_time = threading.Lock()

_WEIGHTS_FROM, _WEIGHTS_TO = 0.2, 0.9
"""The part of the progress that reading the weights is."""

_FromPretrained = Callable[..., tuple[PreTrainedModel, Mapping[str, Any]]]
_Auto = type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]

_UNSUPPORTED = v1.ERROR_REASON_UNSUPPORTED_FEATURE
_UNAVAILABLE = v1.ERROR_REASON_SIDECAR_UNAVAILABLE
_REASONS: Sequence[Reason] = (
    Reason(
        "ValueError",
        "trust_remote_code",
        _UNSUPPORTED,
        "it brings Python code of its own; start with --trust-remote-code if you trust it",
    ),
    Reason(
        "ValueError",
        "recogni",  # "Unrecognized configuration class", "does not recognize this architecture"
        _UNSUPPORTED,
        "this transformers release runs no language model of its architecture",
    ),
    Reason("SafetensorError", "", _UNAVAILABLE, "its weights are damaged; copy them anew"),
    Reason("OutOfMemoryError", "", _UNAVAILABLE, "the device has too little memory for it"),
    Reason("RuntimeError", "allocate memory", _UNAVAILABLE, "there is too little memory for it"),
    Reason("RuntimeError", "device", _UNAVAILABLE, "the device cannot be used; see --device"),
    Reason("AssertionError", "CUDA", _UNAVAILABLE, "this torch has no CUDA; see --device"),
)
"""What torch and transformers say of models that they cannot load."""

_Model = tuple[PreTrainedModel, Defaults, Loaded]


def load(spec: ModelSpec, report: Report) -> _Model:
    """Load a model and its tokenizer. Raises a `Failure` that says what to do.

    A directory is read without touching the network; anything else is a hub id, which is
    downloaded or taken from the Hub's cache as usual.
    """
    try:
        report(0.05, "waiting for another model to be loaded")
        with _one_at_a_time:
            return _load(spec, report)
    except Exception as error:
        failure = explain(error, spec.source, _REASONS)
        if failure is None:
            raise
        raise failure from error


def _load(spec: ModelSpec, report: Report) -> _Model:
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = _device(spec.device)
    source, is_local = resolve(spec.source)
    options: dict[str, Any] = {
        # Said, not left out: transformers would ask a question at the terminal.
        "trust_remote_code": spec.trust_remote_code,
        "local_files_only": is_local,
    }
    verb = "reading" if is_local else "fetching"
    report(0.1, f"{verb} the configuration and the tokenizer")
    config = AutoConfig.from_pretrained(source, **options)
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    pictures = _picture_reader(source, config, options)
    report(_WEIGHTS_FROM, f"{verb} the weights")
    auto: _Auto = AutoModelForCausalLM if pictures is None else AutoModelForImageTextToText
    if spec.attention != "auto":
        options["attn_implementation"] = spec.attention
    dtype = _dtype(spec.dtype, device, config)
    model = _read_weights(auto, source, dtype, device, options, report)
    if model.device != device:
        report(_WEIGHTS_TO, f"moving the weights to {device}")
        model.to(device)  # type: ignore[arg-type]
    generation = model.generation_config
    defaults = Defaults.of(lambda name: getattr(generation, name, None))
    return model, defaults, _describe(spec, model, tokenizer, pictures)


def _picture_reader(
    source: str, config: PreTrainedConfig, options: Mapping[str, Any]
) -> PictureReader | None:
    """What reads pictures for the model; None where it reads none, or nobody can."""
    kind = config.model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return None
    try:
        processor: object = AutoProcessor.from_pretrained(source, **options)  # type: ignore[no-untyped-call]
        if isinstance(processor, ProcessorMixin) and processor.chat_template:
            return PictureReader(processor)
        why = "its processor has no chat template"
    except (ImportError, OSError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise Failure(
            _UNSUPPORTED, f"{source}: it reads pictures, and its processor cannot be used: {why}"
        )
    log(logging.WARNING, "served without pictures", source=source, why=why)
    return None


def _read_weights(
    auto: _Auto,
    source: str,
    dtype: torch.dtype | str,
    device: torch.device,
    options: Mapping[str, Any],
    report: Report,
) -> PreTrainedModel:
    # Straight to the device where accelerate is installed, which transformers needs for that.
    direct = device.type != "cpu" and importlib.util.find_spec("accelerate") is not None
    with _progress(report):
        # Its annotation knows nothing of output_loading_info.
        model, info = cast(_FromPretrained, auto.from_pretrained)(
            source,
            dtype=dtype,
            device_map={"": device} if direct else None,
            output_loading_info=True,
            **options,
        )
    missing = sorted(info["missing_keys"])
    if missing:  # transformers makes them up, and the model babbles
        raise Failure(
            _UNSUPPORTED,
            f"{source}: the checkpoint lacks {len(missing)} of the weights that "
            f"{type(model).__name__} needs, such as {missing[0]}; is it a language model?",
        )
    return model  # in evaluation mode


def _describe(
    spec: ModelSpec,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pictures: PictureReader | None,
) -> Loaded:
    text = model.config.get_text_config()
    generation = model.generation_config
    return Loaded(
        tokenizer=Tokenizer(tokenizer),
        vocabulary=text.vocab_size,
        context_length=context_length(lambda name: getattr(text, name, None), spec.context_length),
        max_output_tokens=generation.max_new_tokens or 0,
        # Fine-tuned models often leave the base model's end in their generation_config, and
        # the end that they were taught in their tokenizer.
        end=frozenset({*several(generation.eos_token_id), *several(tokenizer.eos_token_id)}),
        stop=tuple(several(generation.stop_strings)),
        image_reader=pictures,
        weights_bytes=sum(t.nbytes for t in (*model.parameters(), *model.buffers())),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(name: str, device: torch.device, config: PreTrainedConfig) -> torch.dtype | str:
    """What ``from_pretrained`` takes for it."""
    if name == "fastest" and device.type == "cpu" and _computes_in_bfloat16():
        return torch.bfloat16
    if name not in ("auto", "fastest"):
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise Failure(
                _UNAVAILABLE,
                f"--dtype {name}: no such floating-point type; try float32 or bfloat16",
            )
        return dtype
    if device.type == "cpu" and getattr(config, "quantization_config", None) is None:
        return torch.float32  # right everywhere; bfloat16 is slower on many CPUs
    return "auto"


def _computes_in_bfloat16() -> bool:
    """Whether this CPU has instructions for it; emulated, it is many times as slow as float32."""
    find = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    known = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in _BFLOAT16]
    return bool(find and find()) and any(look() for look in known if look is not None)


_BFLOAT16 = ("avx512_bf16", "amx_tile", "arm_bf16")
"""What CPUs call it."""


class _Counted:
    """An iterable whose progress is reported; stands in for transformers' progress bar."""

    def __init__(self, items: Iterable[Any], total: int, report: Report) -> None:
        self._items, self._total, self._report = items, total, report

    def __iter__(self) -> Iterator[Any]:
        width = _WEIGHTS_TO - _WEIGHTS_FROM
        for count, item in enumerate(self._items):
            # As far as it is worth a message, at most.
            if count % (self._total // 100 + 1) == 0:
                self._report(_WEIGHTS_FROM + width * count / self._total, "reading the weights")
            yield item

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None  # what else progress bars are asked to do


@contextmanager
def _progress(report: Report) -> Iterator[None]:
    """Report transformers' own progress at reading weights."""
    set_hook = getattr(transformers_logging, "set_tqdm_hook", None)
    if set_hook is None:  # an older transformers: the stages must do
        yield
        return

    def hook(bar: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        items = args[0] if args else kwargs.get("iterable")
        if items is None or not hasattr(items, "__len__"):
            return bar(*args, **kwargs)
        return _Counted(items, max(1, len(items)), report)

    before = set_hook(hook)
    try:
        yield
    finally:
        set_hook(before)
