"""A conversation as the messages that a Chat Completions server takes.

Format: developers.openai.com, API reference, "Create chat completion", parameter ``messages``.
Thoughts of earlier turns go only to servers that take them back; models are made to do without.
What else the API has no place for is refused.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from penstock import v1

from penstock_server.errors import Failure

Json = dict[str, Any]

_DETAIL: Mapping[v1.ImageDetail.ValueType, str] = {
    v1.IMAGE_DETAIL_LOW: "low",
    v1.IMAGE_DETAIL_HIGH: "high",
}

_ROLE: Mapping[v1.Role.ValueType, str] = {
    v1.ROLE_SYSTEM: "system",
    v1.ROLE_USER: "user",
    v1.ROLE_ASSISTANT: "assistant",
}


class MessageWriter:
    """Writes messages for one server.

    ``thinking_name`` is what it takes thoughts back as, "" where it does not; ``unsupported`` makes
    the failure for a part, by its path, that the API has no place for.

    Example::

        MessageWriter("", unsupported).write(v1.GenerateRequest(prompt="Hi"))
        # [{"role": "user", "content": "Hi"}]
    """

    def __init__(self, thinking_name: str, unsupported: Callable[[str], Failure]) -> None:
        self._thinking_name = thinking_name
        self._unsupported = unsupported

    def write(self, request: v1.GenerateRequest) -> list[Json]:
        """The system message, the conversation, and the prompt."""
        messages: list[Json] = []
        if request.system:
            messages.append({"role": "system", "content": request.system})
        for index, message in enumerate(request.messages):
            path = f"messages[{index}]"
            if message.role == v1.ROLE_TOOL:
                messages += self._tool_results(message, path)
                continue
            write = self._assistant if message.role == v1.ROLE_ASSISTANT else self._said
            json: Json = {"role": _ROLE[message.role], **write(message, path)}
            if message.name:
                json["name"] = message.name
            messages.append(json)
        if request.prompt:
            messages.append({"role": "user", "content": request.prompt})
        return messages

    def _said(self, message: v1.Message, path: str) -> Json:
        """A system or user message; one text stays a string, which every server takes."""
        parts: list[Json] = []
        for index, part in enumerate(message.parts):
            kind = part.WhichOneof("content")
            if kind == "text":
                parts.append({"type": "text", "text": part.text})
            elif kind == "image" and message.role == v1.ROLE_USER:
                parts.append(_image(part.image))
            elif kind is not None:  # without content it is opaque, and another provider's
                raise self._unsupported(f"{path}.parts[{index}].{kind}")
        if len(parts) == 1 and parts[0]["type"] == "text":
            return {"content": parts[0]["text"]}
        return {"content": parts}

    def _assistant(self, message: v1.Message, path: str) -> Json:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[Json] = []
        for index, part in enumerate(message.parts):
            kind = part.WhichOneof("content")
            if kind == "text":
                texts.append(part.text)
            elif kind == "refusal":
                texts.append(part.refusal)  # the model's own words, which every server takes
            elif kind == "thinking":
                thoughts.append(part.thinking.text)
            elif kind == "tool_call":
                call = part.tool_call
                function = {"name": call.name, "arguments": call.arguments}
                calls.append({"id": call.id, "type": "function", "function": function})
            elif kind is not None:
                raise self._unsupported(f"{path}.parts[{index}].{kind}")
        # Null and not empty beside tool calls: Anthropic refuses empty texts.
        json: Json = {"content": "".join(texts) or (None if calls else "")}
        if calls:
            json["tool_calls"] = calls
        if thoughts and self._thinking_name:
            json[self._thinking_name] = "".join(thoughts)
        return json

    def _tool_results(self, message: v1.Message, path: str) -> Iterable[Json]:
        for index, part in enumerate(message.parts):
            kind = part.WhichOneof("content")
            if kind is None:
                continue
            where = f"{path}.parts[{index}].{kind}"
            if kind != "tool_result":
                raise self._unsupported(where)
            result = part.tool_result
            # The API has no place for the flag; said in words, the model can still act on it.
            texts = ["Error:"] if result.is_error else []
            for place, inner in enumerate(result.parts):
                inner_kind = inner.WhichOneof("content")
                if inner_kind == "text":
                    texts.append(inner.text)
                elif inner_kind is not None:
                    raise self._unsupported(f"{where}.parts[{place}].{inner_kind}")
            # One string: Ollama makes a list of texts several messages, without the call's id.
            yield {"role": "tool", "tool_call_id": result.tool_call_id, "content": "\n".join(texts)}


def _image(image: v1.Image) -> Json:
    if image.WhichOneof("source") == "url":
        url = image.url
    else:
        url = f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"
    json: Json = {"url": url}
    if image.detail in _DETAIL:
        json["detail"] = _DETAIL[image.detail]
    return {"type": "image_url", "image_url": json}
