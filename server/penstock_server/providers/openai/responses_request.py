"""A GenerateRequest as the JSON that OpenAI's Responses API takes.

Format: developers.openai.com, API reference, "Create a model response". What the API has no way to
honour is refused with UNSUPPORTED_FEATURE that names the request's field; some of it Chat
Completions can do (``api = "chat"``). The conversation is ``responses_input``'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers.body import Json, merge, options, parameters, raw
from penstock_server.providers.openai.chat_request import EFFORT, TOOL_CHOICE
from penstock_server.providers.openai.responses_input import InputWriter

# Field of Sampling → its name in JSON.
_SAMPLING: Mapping[str, str] = {
    "max_output_tokens": "max_output_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
}

# What only Chat Completions takes, and what neither does.
_CHAT_HAS = frozenset(
    {"stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "audio"}
)
_NO_SAMPLING = ("seed", "presence_penalty", "frequency_penalty", "top_k", "min_p",
                "repetition_penalty")  # fmt: skip

_OURS = frozenset({"model", "input", "stream", "background"})

# Models that think; the others refuse to be asked for encrypted thoughts. ("gpt-5-chat" does not.)
_THINKS = re.compile(r"^(ft:)?(o\d|gpt-([5-9]|\d\d)(?!.*-chat)|codex|computer-use)")

ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"

# Name in JSON → the request's field, for what the API says about its ``param``.
_FIELDS: Mapping[str, str] = {
    **{name: f"sampling.{field}" for field, name in _SAMPLING.items()},
    "input": "messages",
    "instructions": "system",
    "reasoning": "thinking.effort",
    "text": "response_format",
    "top_logprobs": "logprobs.top_logprobs",
    "parallel_tool_calls": "tool_choice.parallel_tool_calls",
    **{name: name for name in ("model", "tools", "tool_choice", "metadata")},
}


def request_field(param: str) -> str:
    """The request's field that the API's ``param`` means; "" where that is not known."""
    return _FIELDS.get(re.split(r"[.\[]", param, maxsplit=1)[0], "")


class ResponsesWriter:
    """Writes requests; ``provider`` is the provider's name, for failures.

    Nothing is stored at OpenAI (``store`` is false) unless ``provider_options`` ask for it, so
    thoughts are asked for in their encrypted form, to be sent back in the next turn.

    Example::

        ResponsesWriter("openai").write("gpt-5-nano", request, stream=True)
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def write(self, model: str, request: v1.GenerateRequest, *, stream: bool) -> bytes:
        """The body; UNSUPPORTED_FEATURE and INVALID_REQUEST as needed."""
        body: Json = {"model": model, "input": InputWriter(self._unsupported).write(request)}
        body |= {"stream": stream, "store": False}
        if request.system:
            body["instructions"] = request.system
        include = [ENCRYPTED] if _THINKS.match(model) else []
        self._sampling(request.sampling, body)
        self._tools(request, body)
        self._response_format(request.response_format, body)
        self._thinking(request.thinking, body)
        if request.HasField("logprobs"):
            include.append(LOGPROBS)
            body["top_logprobs"] = request.logprobs.top_logprobs
        if include:
            body["include"] = include
        if request.metadata:
            body["metadata"] = dict(request.metadata)
        merge(body, options(request.provider_options, _OURS))
        return msgspec.json.encode(body)

    def _unsupported(self, path: str) -> Failure:
        message = f"{path} is not supported by provider {self._provider!r}: the Responses API has "
        message += "no such thing"
        if path.rpartition(".")[2] in _CHAT_HAS:
            message += f' (Chat Completions has: set providers.{self._provider}.api = "chat")'
        return Failure.unsupported(path, message)

    def _sampling(self, sampling: v1.Sampling, body: Json) -> None:
        for field in _NO_SAMPLING:
            if sampling.HasField(field):  # type: ignore[arg-type] # a name from the table
                raise self._unsupported(f"sampling.{field}")
        for field in ("stop", "logit_bias"):
            if getattr(sampling, field):
                raise self._unsupported(f"sampling.{field}")
        for field, name in _SAMPLING.items():
            if sampling.HasField(field):  # type: ignore[arg-type] # a name from the table
                body[name] = getattr(sampling, field)

    def _tools(self, request: v1.GenerateRequest, body: Json) -> None:
        if not request.tools:
            return
        body["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools)]
        choice = request.tool_choice
        if choice.mode == v1.ToolChoice.MODE_TOOL:
            body["tool_choice"] = {"type": "function", "name": choice.tool_name}
        elif choice.mode == v1.ToolChoice.MODE_REQUIRED:
            body["tool_choice"] = "required"
        elif choice.mode in TOOL_CHOICE:
            body["tool_choice"] = TOOL_CHOICE[choice.mode]
        if choice.HasField("parallel_tool_calls"):
            body["parallel_tool_calls"] = choice.parallel_tool_calls

    def _response_format(self, form: v1.ResponseFormat, body: Json) -> None:
        kind = form.WhichOneof("format")
        if kind == "json_object":
            body["text"] = {"format": {"type": "json_object"}}
        elif kind == "json_schema":
            wanted = form.json_schema
            written: Json = {"type": "json_schema", "name": wanted.name or "response"}
            if wanted.description:
                written["description"] = wanted.description
            written["schema"] = raw(wanted.schema, "response_format.json_schema.schema")
            written["strict"] = wanted.strict if wanted.HasField("strict") else True
            body["text"] = {"format": written}

    def _thinking(self, thinking: v1.ThinkingOptions, body: Json) -> None:
        if thinking.WhichOneof("amount") == "budget_tokens":
            raise self._unsupported("thinking.budget_tokens")
        reasoning: Json = {}
        if thinking.effort in EFFORT:
            reasoning["effort"] = EFFORT[thinking.effort]
        if thinking.include:
            reasoning["summary"] = "auto"
        if reasoning:
            body["reasoning"] = reasoning


def _tool(tool: v1.Tool, path: str) -> Json:
    written: Json = {"type": "function", "name": tool.name}
    if tool.description:
        written["description"] = tool.description
    written["parameters"] = parameters(tool, path)
    if tool.HasField("strict"):
        written["strict"] = tool.strict
    return written
