"""A GenerateRequest or EmbedRequest as the JSON that a Chat Completions server takes.

Formats: developers.openai.com, API reference, "Create chat completion" and "Create embeddings".
What the API, or the server's row, has no way to honour is refused with UNSUPPORTED_FEATURE that
names the request's field; nothing is left out silently. One exception, as the contract has it:
``metadata`` goes only to providers that keep labels, and this API keeps none. Messages are
``chat_messages``'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers.body import Json, merge, options, parameters, raw
from penstock_server.providers.openai.chat_messages import MessageWriter
from penstock_server.providers.openai.servers import Server, Thinks

# Field of Sampling → its name in JSON, where the server's row says nothing else.
_SAMPLING: Mapping[str, str] = {
    "max_output_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
}

EFFORT: Mapping[v1.ThinkingOptions.Effort.ValueType, str] = {
    v1.ThinkingOptions.EFFORT_NONE: "none",
    v1.ThinkingOptions.EFFORT_MINIMAL: "minimal",
    v1.ThinkingOptions.EFFORT_LOW: "low",
    v1.ThinkingOptions.EFFORT_MEDIUM: "medium",
    v1.ThinkingOptions.EFFORT_HIGH: "high",
    v1.ThinkingOptions.EFFORT_MAX: "max",
}
"""How much to think, in the words of both of OpenAI's APIs."""

TOOL_CHOICE: Mapping[v1.ToolChoice.Mode.ValueType, str] = {
    v1.ToolChoice.MODE_AUTO: "auto",
    v1.ToolChoice.MODE_NONE: "none",
}
"""Which tools to call, in the words of both; what is not in here has a form of its own."""

# The answer is read by what these say, so provider_options cannot say otherwise.
_OURS = frozenset({"model", "messages", "stream", "n", "input"})

# Name in JSON → the request's field, for what servers say about their ``param``.
_FIELDS: Mapping[str, str] = {
    **{name: f"sampling.{field}" for field, name in _SAMPLING.items()},
    "max_completion_tokens": "sampling.max_output_tokens",
    "repeat_penalty": "sampling.repetition_penalty",
    "stop": "sampling.stop",
    "logit_bias": "sampling.logit_bias",
    "reasoning_effort": "thinking.effort",
    "top_logprobs": "logprobs.top_logprobs",
    "parallel_tool_calls": "tool_choice.parallel_tool_calls",
    "input": "inputs",
    **{name: name for name in ("model", "messages", "tools", "tool_choice", "logprobs")},
    **{name: name for name in ("response_format", "dimensions")},
}


def request_field(param: str) -> str:
    """The request's field that a server's ``param`` means; "" where that is not known.

    Example::

        request_field("max_completion_tokens") == "sampling.max_output_tokens"
    """
    name, _, _ = param.replace("[", ".").partition(".")
    return _FIELDS.get(name, "")


class RequestWriter:
    """Writes requests for one server.

    ``provider`` is its name, for failures.

    Example::

        RequestWriter("openai", KNOWN["openai"]).chat("gpt-5-nano", request, stream=True)
        # b'{"model":"gpt-5-nano","messages":[…],"stream":true,…}'
    """

    def __init__(self, provider: str, server: Server, kind: str = "openai-compatible") -> None:
        self._provider = provider
        self._server = server
        self._messages = MessageWriter(server, kind, self._unsupported)

    def chat(self, model: str, request: v1.GenerateRequest, *, stream: bool) -> bytes:
        """The body for /chat/completions; UNSUPPORTED_FEATURE and INVALID_REQUEST as needed."""
        body: Json = {"model": model, "messages": self._messages.write(request), "stream": stream}
        if stream and self._server.stream_usage:
            body["stream_options"] = {"include_usage": True}
        self._sampling(request.sampling, body)
        self._tools(request, body)
        self._response_format(request.response_format, body)
        self._thinking(request.thinking, body)
        if request.HasField("logprobs"):
            self._use("logprobs")
            body["logprobs"] = True
            if request.logprobs.top_logprobs:
                body["top_logprobs"] = request.logprobs.top_logprobs
        merge(body, options(request.provider_options, _OURS))
        return msgspec.json.encode(body)

    def embed(self, model: str, request: v1.EmbedRequest) -> bytes:
        """The body for /embeddings."""
        body: Json = {"model": model, "input": list(request.inputs)}
        if request.HasField("dimensions"):
            body["dimensions"] = request.dimensions
        merge(body, options(request.provider_options, _OURS))
        return msgspec.json.encode(body)

    def _use(self, field: str, path: str = "") -> None:
        """Refuse ``field`` where the server has no use for it; ``path`` is where it stands."""
        if not self._server.unsupported.isdisjoint((field, field.partition(".")[0])):
            raise self._unsupported(path or field)

    def _unsupported(self, path: str) -> Failure:
        message = f"{path} is not supported by provider {self._provider!r}: its API would ignore it"
        return Failure.unsupported(path, message)

    def _sampling(self, sampling: v1.Sampling, body: Json) -> None:
        for field, name in _SAMPLING.items():
            if sampling.HasField(field):  # type: ignore[arg-type] # a name from the table
                path = f"sampling.{field}"
                self._use(path)
                body[self._server.names.get(path, name)] = getattr(sampling, field)
        if sampling.stop:
            self._use("sampling.stop")
            body["stop"] = list(sampling.stop)
        if sampling.logit_bias:
            self._use("sampling.logit_bias")
            body["logit_bias"] = dict(sampling.logit_bias)

    def _tools(self, request: v1.GenerateRequest, body: Json) -> None:
        if not request.tools:
            # Servers refuse choices where there is nothing to choose from; all that is left to
            # say (auto, none) holds anyway.
            return
        self._use("tools")
        body["tools"] = [self._tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools)]
        choice = request.tool_choice
        if choice.mode not in (v1.ToolChoice.MODE_UNSPECIFIED, v1.ToolChoice.MODE_AUTO):
            self._use("tool_choice.mode")
        if choice.mode == v1.ToolChoice.MODE_TOOL:
            body["tool_choice"] = {"type": "function", "function": {"name": choice.tool_name}}
        elif choice.mode == v1.ToolChoice.MODE_REQUIRED:
            body["tool_choice"] = self._server.required
        elif choice.mode in TOOL_CHOICE:
            body["tool_choice"] = TOOL_CHOICE[choice.mode]
        if choice.HasField("parallel_tool_calls"):
            self._use("tool_choice.parallel_tool_calls")
            body["parallel_tool_calls"] = choice.parallel_tool_calls

    def _tool(self, tool: v1.Tool, path: str) -> Json:
        function: Json = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        function["parameters"] = parameters(tool, path)
        if tool.HasField("strict"):
            if tool.strict:
                self._use("tools.strict", f"{path}.strict")
            function["strict"] = tool.strict
        return {"type": "function", "function": function}

    def _response_format(self, form: v1.ResponseFormat, body: Json) -> None:
        kind = form.WhichOneof("format")
        if kind == "json_object":
            self._use("response_format", "response_format.json_object")
            body["response_format"] = self._server.json_object
        elif kind == "json_schema":
            self._use("response_format", "response_format.json_schema")
            wanted = form.json_schema
            schema: Json = {"name": wanted.name or "response"}
            if wanted.description:
                schema["description"] = wanted.description
            schema["schema"] = raw(wanted.schema, "response_format.json_schema.schema")
            schema["strict"] = wanted.strict if wanted.HasField("strict") else True
            body["response_format"] = {"type": "json_schema", "json_schema": schema}

    def _thinking(self, thinking: v1.ThinkingOptions, body: Json) -> None:
        how = self._server.thinks
        if thinking.WhichOneof("amount") == "budget_tokens":
            if how != "reasoning":
                raise self._unsupported("thinking.budget_tokens")
            body["reasoning"] = {"max_tokens": thinking.budget_tokens}
        elif thinking.effort in EFFORT:
            self._use("thinking.effort")
            _ASK_TO_THINK[how](EFFORT[thinking.effort], body)
        if thinking.include:
            self._use("thinking.include")  # elsewhere shown anyway; False is up to the reader


def _by_effort(effort: str, body: Json) -> None:
    body["reasoning_effort"] = effort


def _by_reasoning(effort: str, body: Json) -> None:
    body["reasoning"] = {"effort": effort} if effort != "none" else {"enabled": False}


def _by_template(effort: str, body: Json) -> None:
    """A template only knows yes and no; servers hand the effort on where a model knows it."""
    body["chat_template_kwargs"] = {"enable_thinking": effort != "none"}
    if effort != "none":
        body["reasoning_effort"] = effort


def _by_switch(effort: str, body: Json) -> None:
    body["thinking"] = {"type": "disabled" if effort == "none" else "enabled"}
    if effort != "none":
        body["reasoning_effort"] = effort


_ASK_TO_THINK: Mapping[Thinks, Callable[[str, Json], None]] = {
    "effort": _by_effort,
    "reasoning": _by_reasoning,
    "template": _by_template,
    "switch": _by_switch,
}
