"""A conversation as the messages that a Chat Completions server takes.

Format: developers.openai.com, API reference, "Create chat completion", parameter ``messages``.
Thoughts of earlier turns go only to servers that take them back; models are made to do without.
What else the API has no place for is refused.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers.body import Json, data_url, kept_object
from penstock_server.providers.openai.media import AUDIO_FORMAT, DETAIL, image_url
from penstock_server.providers.openai.servers import Server

_ROLE: Mapping[v1.Role.ValueType, str] = {
    v1.ROLE_SYSTEM: "system",
    v1.ROLE_USER: "user",
    v1.ROLE_ASSISTANT: "assistant",
}


class MessageWriter:
    """Writes messages for one server.

    ``server`` is its row, ``kind`` that row's name; ``unsupported`` makes the failure for a part,
    by its path, that the API has no place for.

    Example::

        MessageWriter(OTHER, "vllm", unsupported).write(v1.GenerateRequest(prompt="Hi"))
        # [{"role": "user", "content": "Hi"}]
    """

    def __init__(self, server: Server, kind: str, unsupported: Callable[[str], Failure]) -> None:
        self._thinking_name = server.thinking_name
        self._call_id_length = server.call_id_length
        self._kind = kind
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
            elif kind is not None:  # without content it is opaque, and another provider's
                write = _USER_PARTS.get(kind)
                written = write(part) if write and message.role == v1.ROLE_USER else None
                if written is None:
                    raise self._unsupported(f"{path}.parts[{index}].{kind}")
                parts.append(written)
        if len(parts) == 1 and parts[0]["type"] == "text":
            return {"content": parts[0]["text"]}
        return {"content": parts}

    def _assistant(self, message: v1.Message, path: str) -> Json:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[Json] = []
        opaque: Json = {}
        for index, part in enumerate(message.parts):
            kind = part.WhichOneof("content")
            own = kept_object(part, self._kind, f"{path}.parts[{index}]")
            if kind is None and own:
                opaque |= own
            elif kind == "text":
                texts.append(part.text)
            elif kind == "refusal":
                texts.append(part.refusal)  # the model's own words, which every server takes
            elif kind == "thinking":
                thoughts.append(part.thinking.text)
            elif kind == "tool_call":
                call = part.tool_call
                function = {"name": call.name, "arguments": call.arguments}
                written = {"id": self._id(call.id), "type": "function", "function": function}
                calls.append(written | own)
            elif kind is not None:
                raise self._unsupported(f"{path}.parts[{index}].{kind}")
        # Null and not empty beside tool calls: some refuse empty texts.
        json: Json = {"content": "".join(texts) or (None if calls else "")}
        if calls:
            json["tool_calls"] = calls
        if thoughts and self._thinking_name:
            json[self._thinking_name] = "".join(thoughts)
        return json | opaque

    def _id(self, call_id: str) -> str:
        """A call's id as the server wants it; the same for a call and its result."""
        length = self._call_id_length
        if not length or (len(call_id) == length and call_id.isalnum()):
            return call_id
        return hashlib.sha256(call_id.encode()).hexdigest()[:length]

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
            # One string, which every server takes.
            call_id = self._id(result.tool_call_id)
            yield {"role": "tool", "tool_call_id": call_id, "content": "\n".join(texts)}


def _image(part: v1.Part) -> Json:
    json: Json = {"url": image_url(part.image)}
    if part.image.detail in DETAIL:
        json["detail"] = DETAIL[part.image.detail]
    return {"type": "image_url", "image_url": json}


def _audio(part: v1.Part) -> Json | None:
    audio = part.audio
    if audio.media_type not in AUDIO_FORMAT:
        return None
    data = base64.b64encode(audio.data).decode()
    sound = {"data": data, "format": AUDIO_FORMAT[audio.media_type]}
    return {"type": "input_audio", "input_audio": sound}


def _document(part: v1.Part) -> Json | None:
    document = part.document
    kind = document.WhichOneof("source")
    if kind == "file_id":
        return {"type": "file", "file": {"file_id": document.file_id}}
    if kind == "data":
        data = data_url(document.media_type, document.data)
        name = document.title or "document"
        return {"type": "file", "file": {"filename": name, "file_data": data}}
    return None  # no server fetches a document by its URL


_USER_PARTS: Mapping[str, Callable[[v1.Part], Json | None]] = {
    "image": _image,
    "audio": _audio,
    "document": _document,
}
