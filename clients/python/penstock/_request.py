"""What callers write -> the contract's requests. Pure: nothing is sent, and nothing is checked.

Limits and combinations are the server's to check, so that there is one answer to what is valid;
an option that is left out, or None, is left unset on the wire.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypedDict, Unpack

from google.protobuf.struct_pb2 import Struct

from penstock import v1

Prompt: TypeAlias = str | v1.Message | Iterable[v1.Message] | v1.GenerateRequest
"""What to ask: text, one message, a conversation (oldest first), or a whole request."""


class GenerateOptions(TypedDict, total=False):
    """The keyword options of ``generate`` and ``stream``.

    Each is a field of ``GenerateRequest``; the contract tells the limits. Unset, or None, means
    the provider's default. An option that the model cannot honour is refused with
    UnsupportedFeatureError rather than ignored.
    """

    system: str | None
    """Instructions to the model, ahead of the conversation."""
    tools: Iterable[v1.Tool | Mapping[str, Any]] | None
    """What the model may ask to have called: ``Tool`` messages, or mappings with the keys name,
    description, parameters (a JSON Schema, as a mapping or JSON text) and strict."""
    tool_choice: str | v1.ToolChoice | None
    """"auto", "none", "required" (some tool), or the name of the tool to call."""
    parallel_tool_calls: bool | None
    """Whether one answer may call several tools."""
    response_format: str | Mapping[str, Any] | v1.ResponseFormat | None
    """"text", "json" (any JSON object), or a JSON Schema as a mapping."""
    max_output_tokens: int | None
    """The most tokens to write, thinking included."""
    temperature: float | None
    """0 picks the likeliest token every time; higher is more varied. 0 to 2."""
    top_p: float | None
    """Draw from the likeliest tokens that together have this probability."""
    top_k: int | None
    """Draw from this many likeliest tokens."""
    min_p: float | None
    """Leave out tokens less likely than this share of the likeliest."""
    seed: int | None
    """The same seed, request and model give the same answer, as far as the provider promises."""
    stop: str | Iterable[str] | None
    """The answer ends before this string, or any of these."""
    presence_penalty: float | None
    """Makes tokens that have been written less likely, by a fixed amount. -2 to 2."""
    frequency_penalty: float | None
    """Makes tokens less likely the more often they have been written. -2 to 2."""
    repetition_penalty: float | None
    """Divides the scores of tokens seen in prompt and answer; 1 changes nothing."""
    logit_bias: Mapping[int, float] | None
    """Added to the scores of tokens, by token id."""
    thinking: str | int | v1.ThinkingOptions | None
    """How much to think first: "none", "minimal", "low", "medium", "high", "max", or a budget
    in tokens."""
    include_thinking: bool | None
    """Whether to show the thoughts, or a summary of them, in the answer."""
    top_logprobs: int | None
    """Asks for the tokens' log probabilities, and this many alternatives to each; 0 is allowed."""
    labels: Mapping[str, str] | None
    """The caller's labels for the request, passed on to providers that keep them."""
    provider_options: Mapping[str, Any] | None
    """Passed through to the provider's own API as it is."""


def generate_request(
    prompt: Prompt, *, model: str = "", **options: Unpack[GenerateOptions]
) -> v1.GenerateRequest:
    """A request from what a caller wrote. A ``GenerateRequest`` is copied, and options replace
    what it says.

    Raises:
        TypeError: an option that does not exist, or a value of the wrong type.
        ValueError: a value that the contract has no word for.

    Example::

        generate_request("Hi", model="local/tiny", temperature=0, stop="\\n")
    """
    if unknown := options.keys() - _SETTERS.keys():
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    request = _base(prompt)
    if model:
        request.model = model
    for name, put in _SETTERS.items():
        value = options.get(name)
        if value is not None:
            try:
                put(request, value)
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"{name}: {error}") from error
    return request


def embed_request(
    inputs: str | Iterable[str],
    *,
    model: str,
    dimensions: int | None = None,
    provider_options: Mapping[str, Any] | None = None,
) -> v1.EmbedRequest:
    """A request for vectors, one for each text."""
    request = v1.EmbedRequest(
        model=model,
        inputs=[inputs] if isinstance(inputs, str) else inputs,
        dimensions=dimensions,
    )
    if provider_options is not None:
        _fill(request.provider_options, provider_options)
    return request


def to_json(value: Any) -> str:
    """Compact JSON text; a str is taken for JSON text already."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _base(prompt: Prompt) -> v1.GenerateRequest:
    if isinstance(prompt, str):
        return v1.GenerateRequest(prompt=prompt)
    if isinstance(prompt, v1.Message):
        return v1.GenerateRequest(messages=[prompt])
    request = v1.GenerateRequest()
    if isinstance(prompt, v1.GenerateRequest):
        request.CopyFrom(prompt)
    else:
        request.messages.extend(prompt)
    return request


_MODES = {
    "auto": v1.ToolChoice.MODE_AUTO,
    "none": v1.ToolChoice.MODE_NONE,
    "required": v1.ToolChoice.MODE_REQUIRED,
}

_EFFORTS = {
    "none": v1.ThinkingOptions.EFFORT_NONE,
    "minimal": v1.ThinkingOptions.EFFORT_MINIMAL,
    "low": v1.ThinkingOptions.EFFORT_LOW,
    "medium": v1.ThinkingOptions.EFFORT_MEDIUM,
    "high": v1.ThinkingOptions.EFFORT_HIGH,
    "max": v1.ThinkingOptions.EFFORT_MAX,
}

_FORMATS = {
    "text": v1.ResponseFormat(text=v1.TextFormat()),
    "json": v1.ResponseFormat(json_object=v1.JsonObjectFormat()),
}

_TOOL_KEYS = {field.name for field in v1.Tool.DESCRIPTOR.fields}


def _sampling(name: str) -> Callable[[v1.GenerateRequest, Any], None]:
    def put(request: v1.GenerateRequest, value: Any) -> None:
        setattr(request.sampling, name, value)

    return put


def _system(request: v1.GenerateRequest, value: str) -> None:
    request.system = value


def _tools(request: v1.GenerateRequest, value: Iterable[v1.Tool | Mapping[str, Any]]) -> None:
    tools = [_tool(tool) for tool in value]
    del request.tools[:]
    request.tools.extend(tools)


def _tool(value: v1.Tool | Mapping[str, Any]) -> v1.Tool:
    if isinstance(value, v1.Tool):
        return value
    if unknown := value.keys() - _TOOL_KEYS:
        raise ValueError(f"a tool has no {', '.join(sorted(unknown))}")
    return v1.Tool(
        name=value.get("name", ""),
        description=value.get("description", ""),
        parameters=to_json(value.get("parameters", "")),
        strict=value.get("strict"),
    )


def _tool_choice(request: v1.GenerateRequest, value: str | v1.ToolChoice) -> None:
    if isinstance(value, v1.ToolChoice):
        request.tool_choice.CopyFrom(value)
        return
    mode = _MODES.get(value, v1.ToolChoice.MODE_TOOL)
    request.tool_choice.mode = mode
    request.tool_choice.tool_name = value if mode == v1.ToolChoice.MODE_TOOL else ""


def _parallel_tool_calls(request: v1.GenerateRequest, value: bool) -> None:
    request.tool_choice.parallel_tool_calls = value


def _response_format(
    request: v1.GenerateRequest, value: str | Mapping[str, Any] | v1.ResponseFormat
) -> None:
    if isinstance(value, str):
        if value not in _FORMATS:
            raise ValueError(f"{value!r} is none of {', '.join(_FORMATS)}, nor a JSON Schema")
        value = _FORMATS[value]
    elif isinstance(value, Mapping):
        schema = v1.JsonSchemaFormat(schema=to_json(value))
        value = v1.ResponseFormat(json_schema=schema)
    request.response_format.CopyFrom(value)


def _stop(request: v1.GenerateRequest, value: str | Iterable[str]) -> None:
    request.sampling.stop[:] = [value] if isinstance(value, str) else value


def _logit_bias(request: v1.GenerateRequest, value: Mapping[int, float]) -> None:
    request.sampling.logit_bias.clear()
    request.sampling.logit_bias.update(value)


def _thinking(request: v1.GenerateRequest, value: str | int | v1.ThinkingOptions) -> None:
    if isinstance(value, v1.ThinkingOptions):
        request.thinking.CopyFrom(value)
    elif isinstance(value, bool):  # an int to Python, and no budget of tokens
        raise TypeError(f"one of {', '.join(_EFFORTS)}, or a budget in tokens, not {value}")
    elif isinstance(value, int):
        request.thinking.budget_tokens = value
    elif value in _EFFORTS:
        request.thinking.effort = _EFFORTS[value]
    else:
        raise ValueError(f"{value!r} is none of {', '.join(_EFFORTS)}, nor a budget in tokens")


def _include_thinking(request: v1.GenerateRequest, value: bool) -> None:
    request.thinking.include = value


def _top_logprobs(request: v1.GenerateRequest, value: int) -> None:
    request.logprobs.top_logprobs = value
    request.logprobs.SetInParent()  # 0 alternatives is a wish, too


def _labels(request: v1.GenerateRequest, value: Mapping[str, str]) -> None:
    request.metadata.clear()
    request.metadata.update(value)


def _provider_options(request: v1.GenerateRequest, value: Mapping[str, Any]) -> None:
    _fill(request.provider_options, value)


def _fill(struct: Struct, value: Mapping[str, Any]) -> None:
    struct.Clear()
    struct.update(dict(value))
    struct.SetInParent()


# In this order: what sets a whole message stands before what sets one field of it.
_SETTERS: Mapping[str, Callable[[v1.GenerateRequest, Any], None]] = {
    "system": _system,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _parallel_tool_calls,
    "response_format": _response_format,
    "max_output_tokens": _sampling("max_output_tokens"),
    "temperature": _sampling("temperature"),
    "top_p": _sampling("top_p"),
    "top_k": _sampling("top_k"),
    "min_p": _sampling("min_p"),
    "seed": _sampling("seed"),
    "stop": _stop,
    "presence_penalty": _sampling("presence_penalty"),
    "frequency_penalty": _sampling("frequency_penalty"),
    "repetition_penalty": _sampling("repetition_penalty"),
    "logit_bias": _logit_bias,
    "thinking": _thinking,
    "include_thinking": _include_thinking,
    "top_logprobs": _top_logprobs,
    "labels": _labels,
    "provider_options": _provider_options,
}
