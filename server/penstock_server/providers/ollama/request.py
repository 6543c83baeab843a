"""A GenerateRequest or EmbedRequest as the JSON that Ollama's own API takes.

Formats: docs.ollama.com, "Generate a chat message" and "Generate embeddings", and ``api/types.go``
of ollama/ollama. What the API has no way to honour is refused with UNSUPPORTED_FEATURE that names
the request's field.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

import msgspec
from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers.body import Json, merge, options, parameters, raw

# Field of Sampling → its name among the ``options``.
_SAMPLING: Mapping[str, str] = {
    "max_output_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repeat_penalty",
}

# Only gpt-oss knows levels (docs.ollama.com, "Thinking"); others think or do not.
_KNOWS_LEVELS = re.compile(r"gpt-oss")
_LEVEL: Mapping[v1.ThinkingOptions.Effort.ValueType, str] = {
    v1.ThinkingOptions.EFFORT_MINIMAL: "low",
    v1.ThinkingOptions.EFFORT_LOW: "low",
    v1.ThinkingOptions.EFFORT_MEDIUM: "medium",
    v1.ThinkingOptions.EFFORT_HIGH: "high",
    v1.ThinkingOptions.EFFORT_MAX: "high",
}

_ROLE: Mapping[v1.Role.ValueType, str] = {
    v1.ROLE_SYSTEM: "system",
    v1.ROLE_USER: "user",
    v1.ROLE_ASSISTANT: "assistant",
    v1.ROLE_TOOL: "tool",
}

_OURS = frozenset({"model", "messages", "stream", "input"})


class RequestWriter:
    """Writes requests; ``provider`` is the provider's name, for failures.

    Example::

        RequestWriter("ollama").chat("qwen3", request, stream=True)
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def chat(self, model: str, request: v1.GenerateRequest, *, stream: bool) -> bytes:
        """The body for /api/chat; UNSUPPORTED_FEATURE and INVALID_REQUEST as needed."""
        body: Json = {"model": model, "messages": self._messages(request), "stream": stream}
        self._sampling(request.sampling, body)
        self._tools(request, body)
        self._response_format(request.response_format, body)
        self._thinking(model, request.thinking, body)
        if request.HasField("logprobs"):
            body["logprobs"] = True
            body["top_logprobs"] = request.logprobs.top_logprobs
        merge(body, options(request.provider_options, _OURS))
        return msgspec.json.encode(body)

    def embed(self, model: str, request: v1.EmbedRequest) -> bytes:
        """The body for /api/embed. What is too long is an error there, and not cut off."""
        body: Json = {"model": model, "input": list(request.inputs), "truncate": False}
        if request.HasField("dimensions"):
            body["dimensions"] = request.dimensions
        merge(body, options(request.provider_options, _OURS))
        return msgspec.json.encode(body)

    def _unsupported(self, path: str, why: str = "Ollama's API has no such thing") -> Failure:
        message = f"{path} is not supported by provider {self._provider!r}: {why}"
        return Failure.unsupported(path, message)

    def _messages(self, request: v1.GenerateRequest) -> list[Json]:
        messages: list[Json] = []
        if request.system:
            messages.append({"role": "system", "content": request.system})
        names: dict[str, str] = {}
        for index, message in enumerate(request.messages):
            path = f"messages[{index}]"
            if message.role == v1.ROLE_TOOL:
                messages += self._tool_results(message, names, path)
            else:
                messages.append(self._message(message, names, path))
        if request.prompt:
            messages.append({"role": "user", "content": request.prompt})
        return messages

    def _message(self, message: v1.Message, names: dict[str, str], path: str) -> Json:
        texts: list[str] = []
        thoughts: list[str] = []
        images: list[str] = []
        calls: list[Json] = []
        for index, part in enumerate(message.parts):
            kind = part.WhichOneof("content")
            where = f"{path}.parts[{index}].{kind}"
            if kind in ("text", "refusal"):
                texts.append(part.text or part.refusal)
            elif kind == "thinking":
                thoughts.append(part.thinking.text)
            elif kind == "image":
                images.append(self._image(part.image, where))
            elif kind == "tool_call":
                call = part.tool_call
                names[call.id] = call.name
                arguments = raw(call.arguments or "{}", f"{where}.arguments")
                function = {"name": call.name, "arguments": arguments}
                calls.append({"id": call.id, "function": function})
            elif kind is not None:  # without content it is opaque, and another provider's
                raise self._unsupported(where)
        written: Json = {"role": _ROLE[message.role], "content": "".join(texts)}
        if any(thoughts):
            written["thinking"] = "".join(thoughts)
        if images:
            written["images"] = images
        if calls:
            written["tool_calls"] = calls
        return written

    def _tool_results(self, message: v1.Message, names: dict[str, str], path: str) -> list[Json]:
        written: list[Json] = []
        for index, part in enumerate(message.parts):
            if part.WhichOneof("content") is None:
                continue
            result = part.tool_result
            inner = v1.Message(role=v1.ROLE_TOOL, parts=result.parts)
            one = self._message(inner, names, f"{path}.parts[{index}].tool_result")
            if result.is_error:  # the API has no place for the flag
                one["content"] = f"Error:\n{one['content']}"
            one["tool_call_id"] = result.tool_call_id
            if result.tool_call_id in names:
                one["tool_name"] = names[result.tool_call_id]
            written.append(one)
        return written

    def _image(self, image: v1.Image, path: str) -> str:
        if image.WhichOneof("source") == "data":
            return base64.b64encode(image.data).decode()
        head, _, data = image.url.partition(",")
        if not head.startswith("data:") or not head.endswith(";base64"):
            raise self._unsupported(f"{path}.url", "Ollama fetches nothing; send the image's bytes")
        return data

    def _sampling(self, sampling: v1.Sampling, body: Json) -> None:
        if sampling.logit_bias:
            raise self._unsupported("sampling.logit_bias")
        chosen: Json = {
            name: getattr(sampling, field)
            for field, name in _SAMPLING.items()
            if sampling.HasField(field)  # type: ignore[arg-type] # a name from the table
        }
        if sampling.stop:
            chosen["stop"] = list(sampling.stop)
        if chosen:
            body["options"] = chosen

    def _tools(self, request: v1.GenerateRequest, body: Json) -> None:
        choice = request.tool_choice
        if not request.tools or choice.mode == v1.ToolChoice.MODE_NONE:
            return  # a model that is shown no tools calls none
        if choice.mode not in (v1.ToolChoice.MODE_UNSPECIFIED, v1.ToolChoice.MODE_AUTO):
            raise self._unsupported("tool_choice.mode", "Ollama's models choose for themselves")
        if choice.HasField("parallel_tool_calls") and not choice.parallel_tool_calls:
            raise self._unsupported("tool_choice.parallel_tool_calls")
        tools: list[Json] = []
        for index, tool in enumerate(request.tools):
            if tool.strict:
                raise self._unsupported(f"tools[{index}].strict")
            function: Json = {"name": tool.name, "description": tool.description}
            function["parameters"] = parameters(tool, f"tools[{index}]")
            tools.append({"type": "function", "function": function})
        body["tools"] = tools

    def _response_format(self, form: v1.ResponseFormat, body: Json) -> None:
        kind = form.WhichOneof("format")
        if kind == "json_object":
            body["format"] = "json"
        elif kind == "json_schema":
            body["format"] = raw(form.json_schema.schema, "response_format.json_schema.schema")

    def _thinking(self, model: str, thinking: v1.ThinkingOptions, body: Json) -> None:
        if thinking.WhichOneof("amount") == "budget_tokens":
            raise self._unsupported("thinking.budget_tokens")
        if thinking.effort == v1.ThinkingOptions.EFFORT_NONE:
            body["think"] = False
        elif thinking.effort in _LEVEL:
            body["think"] = _LEVEL[thinking.effort] if _KNOWS_LEVELS.search(model) else True
