"""A GenerateRequest as the JSON that Anthropic's Messages API takes.

Format: platform.claude.com, API reference, "Create a message". What the API has no way to honour is
refused with UNSUPPORTED_FEATURE that names the request's field. Messages are ``messages``'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers.anthropic.messages import Conversation
from penstock_server.providers.anthropic.models import Traits, traits
from penstock_server.providers.body import Json, merge, options, parameters, raw

# Field of Sampling → its name in JSON.
_SAMPLING: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
}
_NO_SAMPLING = (
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)

_EFFORT: Mapping[v1.ThinkingOptions.Effort.ValueType, str] = {
    v1.ThinkingOptions.EFFORT_MINIMAL: "low",
    v1.ThinkingOptions.EFFORT_LOW: "low",
    v1.ThinkingOptions.EFFORT_MEDIUM: "medium",
    v1.ThinkingOptions.EFFORT_HIGH: "high",
    v1.ThinkingOptions.EFFORT_MAX: "max",
}

# Effort → tokens to think, for models that know no effort. The API's least is 1,024.
_BUDGET: Mapping[v1.ThinkingOptions.Effort.ValueType, int] = {
    v1.ThinkingOptions.EFFORT_MINIMAL: 1_024,
    v1.ThinkingOptions.EFFORT_LOW: 2_048,
    v1.ThinkingOptions.EFFORT_MEDIUM: 8_192,
    v1.ThinkingOptions.EFFORT_HIGH: 16_384,
    v1.ThinkingOptions.EFFORT_MAX: 31_999,
}

_TOOL_CHOICE: Mapping[v1.ToolChoice.Mode.ValueType, str] = {
    v1.ToolChoice.MODE_UNSPECIFIED: "auto",
    v1.ToolChoice.MODE_AUTO: "auto",
    v1.ToolChoice.MODE_NONE: "none",
    v1.ToolChoice.MODE_REQUIRED: "any",
    v1.ToolChoice.MODE_TOOL: "tool",
}

_OURS = frozenset({"model", "messages", "stream"})


class AnthropicRequest(NamedTuple):
    """What to send: the body, what betas to ask for, and which tool stands for a JSON answer."""

    body: bytes
    betas: tuple[str, ...]
    answer_tool: str
    """The model is made to call this tool, and its arguments are the answer; "" mostly."""


def answer_tool(model: str, form: v1.ResponseFormat) -> str:
    """The tool that a model has to call where JSON is wanted that it cannot be held to natively."""
    kind = form.WhichOneof("format")
    if kind == "json_object":
        return "response"  # native output needs a schema, which "any object" is not
    if kind == "json_schema" and not traits(model).structured:
        return form.json_schema.name or "response"
    return ""


class RequestWriter:
    """Writes requests; ``provider`` is the provider's name, for failures.

    Where the caller sets no ``max_output_tokens``, which the API requires, it is the model's most
    (``models``).

    Example::

        RequestWriter("anthropic").write("claude-sonnet-5", request, stream=True).body
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def write(self, model: str, request: v1.GenerateRequest, *, stream: bool) -> AnthropicRequest:
        """The request; UNSUPPORTED_FEATURE and INVALID_REQUEST as needed."""
        known = traits(model)
        said = Conversation(self._unsupported).write(request)
        sampling = request.sampling
        limit = sampling.max_output_tokens or known.max_output_tokens
        body: Json = {"model": model, "max_tokens": limit, "messages": said.messages}
        if stream:
            body["stream"] = True
        if said.system:
            body["system"] = said.system
        self._sampling(request, body)
        self._tools(request, body)
        self._thinking(request.thinking, known, limit, body)
        tool = self._response_format(model, request, body)
        if request.HasField("logprobs"):
            raise self._unsupported("logprobs")
        if "user_id" in request.metadata:  # the one label that the API keeps
            body["metadata"] = {"user_id": request.metadata["user_id"]}
        more = options(request.provider_options, _OURS)
        betas = more.pop("betas", [])
        merge(body, more)
        asked = [*said.betas, *(str(beta) for beta in betas)]
        return AnthropicRequest(msgspec.json.encode(body), tuple(dict.fromkeys(asked)), tool)

    def _unsupported(self, path: str) -> Failure:
        message = (
            f"{path} is not supported by provider {self._provider!r}: Anthropic's API has no such "
            "thing"
        )
        return Failure.unsupported(path, message)

    def _sampling(self, request: v1.GenerateRequest, body: Json) -> None:
        sampling = request.sampling
        for field in _NO_SAMPLING:
            if sampling.HasField(field):  # type: ignore[arg-type] # a name from the table
                raise self._unsupported(f"sampling.{field}")
        if sampling.logit_bias:
            raise self._unsupported("sampling.logit_bias")
        for field, name in _SAMPLING.items():
            if sampling.HasField(field):  # type: ignore[arg-type] # a name from the table
                body[name] = getattr(sampling, field)
        if sampling.stop:
            body["stop_sequences"] = list(sampling.stop)

    def _tools(self, request: v1.GenerateRequest, body: Json) -> None:
        if not request.tools:
            return
        body["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools)]
        choice = request.tool_choice
        parallel = choice.HasField("parallel_tool_calls")
        if choice.mode == v1.ToolChoice.MODE_UNSPECIFIED and not parallel:
            return
        written: Json = {"type": _TOOL_CHOICE.get(choice.mode, "auto")}
        if choice.mode == v1.ToolChoice.MODE_TOOL:
            written["name"] = choice.tool_name
        if parallel and choice.mode != v1.ToolChoice.MODE_NONE:
            written["disable_parallel_tool_use"] = not choice.parallel_tool_calls
        body["tool_choice"] = written

    def _thinking(
        self, thinking: v1.ThinkingOptions, known: Traits, limit: int, body: Json
    ) -> None:
        written: Json = {}
        effort = thinking.effort
        if thinking.WhichOneof("amount") == "budget_tokens":
            written = {"type": "enabled", "budget_tokens": thinking.budget_tokens}
        elif effort == v1.ThinkingOptions.EFFORT_NONE:
            body["thinking"] = {"type": "disabled"}
            return
        elif effort in _EFFORT and known.adaptive:
            written = {"type": "adaptive"}
            body["output_config"] = {"effort": _EFFORT[effort]}
        elif effort in _BUDGET:
            if not known.thinks:
                raise self._unsupported("thinking.effort")
            # Thoughts are part of the answer's tokens, and something has to be left for the rest.
            budget = min(_BUDGET[effort], max(1_024, limit // 2))
            written = {"type": "enabled", "budget_tokens": budget}
        elif thinking.include and known.adaptive:
            written = {"type": "adaptive"}  # shown where it thinks anyway
        if written:
            if thinking.HasField("include") and known.adaptive:
                written["display"] = "summarized" if thinking.include else "omitted"
            body["thinking"] = written

    def _response_format(self, model: str, request: v1.GenerateRequest, body: Json) -> str:
        form = request.response_format
        kind = form.WhichOneof("format")
        if kind in (None, "text"):
            return ""
        schema: object = {"type": "object"}
        if kind == "json_schema":
            schema = raw(form.json_schema.schema, "response_format.json_schema.schema")
        tool = answer_tool(model, form)
        if not tool:
            wanted = {"format": {"type": "json_schema", "schema": schema}}
            body["output_config"] = body.get("output_config", {}) | wanted
            return ""
        if request.tools:
            # One tool has to be called for the answer, so none of the caller's could be.
            raise self._unsupported(f"response_format.{kind} together with tools")
        description = form.json_schema.description or "Gives the answer."
        body["tools"] = [{"name": tool, "description": description, "input_schema": schema}]
        body["tool_choice"] = {"type": "tool", "name": tool, "disable_parallel_tool_use": True}
        return tool


def _tool(tool: v1.Tool, path: str) -> Json:
    written: Json = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    written["input_schema"] = parameters(tool, path)
    if tool.HasField("strict"):
        written["strict"] = tool.strict
    return written
