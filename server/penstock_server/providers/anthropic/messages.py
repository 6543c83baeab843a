"""A conversation as the messages that Anthropic's API takes.

Format: platform.claude.com, API reference, "Create a message", parameter ``messages``. What the API
gave and wants to see again (signatures, redacted thoughts, blocks of its own tools) goes back as it
came; thoughts of other providers are left out, since it would refuse them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

from penstock import v1

from penstock_server.errors import Failure, Violation
from penstock_server.providers.body import Json, kept_object, raw

PROVIDER = "anthropic"
"""Whose ``provider_data`` is understood."""

FILES_BETA = "files-api-2025-04-14"
"""What has to be asked for where a document is named by its file id."""

_TEXT_TYPES = ("text/", "application/json")


class Conversation:
    """The system prompt and messages of one request.

    ``unsupported`` makes the failure for a part, by its path, that the API has no place for.

    Example::

        Conversation(unsupported).write(v1.GenerateRequest(prompt="Hi")).messages
        # [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    """

    def __init__(self, unsupported: Callable[[str], Failure]) -> None:
        self.system: list[Json] = []
        self.messages: list[Json] = []
        self.betas: list[str] = []
        self._unsupported = unsupported

    def write(self, request: v1.GenerateRequest) -> Conversation:
        """Take everything that is said in the request."""
        if request.system:
            self.system.append(_text(request.system))
        for index, message in enumerate(request.messages):
            path = f"messages[{index}]"
            if message.role == v1.ROLE_SYSTEM and not self.messages:
                self.system += self._blocks(message, path)
                continue
            role = {v1.ROLE_ASSISTANT: "assistant", v1.ROLE_SYSTEM: "system"}.get(
                message.role, "user"
            )
            self._say(role, self._blocks(message, path))
        if request.prompt:
            self._say("user", [_text(request.prompt)])
        return self

    def _say(self, role: str, blocks: list[Json]) -> None:
        # The results of parallel calls belong into one message, before what the user says next.
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        elif blocks:
            self.messages.append({"role": role, "content": blocks})

    def _blocks(self, message: v1.Message, path: str) -> list[Json]:
        blocks: list[Json] = []
        for index, part in enumerate(message.parts):
            block = self._block(part, f"{path}.parts[{index}]")
            if block is not None:
                blocks.append(block)
        return blocks

    def _block(self, part: v1.Part, path: str) -> Json | None:
        kind = part.WhichOneof("content")
        own = kept_object(part, PROVIDER, path)
        if kind is None:
            return own or None
        if kind == "thinking":
            return self._thinking(part, own)
        write = _WRITERS.get(kind)
        if write is None:
            raise self._unsupported(f"{path}.{kind}")
        block = write(self, part, f"{path}.{kind}")
        return None if block is None else block | own

    def _thinking(self, part: v1.Part, own: Json) -> Json | None:
        if not own:
            return None  # without a signature it would be refused
        if "type" in own:  # a redacted one, whole
            return own
        return {"type": "thinking", "thinking": part.thinking.text, **own}

    def _said(self, part: v1.Part, path: str) -> Json | None:
        # Empty texts are refused, and say nothing.
        text = part.text or part.refusal
        return _text(text) if text else None

    def _image(self, part: v1.Part, path: str) -> Json:
        image = part.image
        if image.WhichOneof("source") == "data":
            source: Json = _base64(image.media_type, image.data)
        elif image.url.startswith("data:"):
            head, _, data = image.url.removeprefix("data:").partition(",")
            media_type = head.removesuffix(";base64")
            source = {"type": "base64", "media_type": media_type, "data": data}
        else:
            source = {"type": "url", "url": image.url}
        return {"type": "image", "source": source}

    def _document(self, part: v1.Part, path: str) -> Json:
        document = part.document
        kind = document.WhichOneof("source")
        if kind == "file_id":
            if FILES_BETA not in self.betas:
                self.betas.append(FILES_BETA)
            source: Json = {"type": "file", "file_id": document.file_id}
        elif kind == "url":
            source = {"type": "url", "url": document.url}
        elif document.media_type.startswith(_TEXT_TYPES):
            try:
                text = document.data.decode()
            except UnicodeDecodeError:
                raise Failure.invalid([Violation(f"{path}.data", "is not UTF-8")]) from None
            source = {"type": "text", "media_type": "text/plain", "data": text}
        else:
            source = _base64(document.media_type, document.data)
        block: Json = {"type": "document", "source": source}
        if document.title:
            block["title"] = document.title
        return block

    def _tool_call(self, part: v1.Part, path: str) -> Json:
        call = part.tool_call
        arguments = raw(call.arguments or "{}", f"{path}.arguments")
        return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}

    def _tool_result(self, part: v1.Part, path: str) -> Json:
        result = part.tool_result
        block: Json = {"type": "tool_result", "tool_use_id": result.tool_call_id}
        inner = v1.Message(parts=result.parts)
        if content := self._blocks(inner, path):
            block["content"] = content
        if result.is_error:
            block["is_error"] = True
        return block


_WRITERS: Mapping[str, Callable[[Conversation, v1.Part, str], Json | None]] = {
    "text": Conversation._said,
    "refusal": Conversation._said,
    "image": Conversation._image,
    "document": Conversation._document,
    "tool_call": Conversation._tool_call,
    "tool_result": Conversation._tool_result,
}


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _base64(media_type: str, data: bytes) -> Json:
    encoded = base64.b64encode(data).decode()
    return {"type": "base64", "media_type": media_type, "data": encoded}
