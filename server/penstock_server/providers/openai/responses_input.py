"""A conversation as the input items that OpenAI's Responses API takes.

Format: developers.openai.com, API reference, "Create a model response", parameter ``input``. Items
that the API gave and wants to see again (reasoning, its own tools' calls) go back as they came;
thoughts of other providers are left out: there is no place for them.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers.body import Json, data_url, kept_object
from penstock_server.providers.openai.media import DETAIL, image_url

PROVIDER = "openai"
"""Whose ``provider_data`` is understood."""


class InputWriter:
    """Writes input items.

    ``unsupported`` makes the failure for a part, by its path, that the API has no place for.

    Example::

        InputWriter(unsupported).write(v1.GenerateRequest(prompt="Hi"))
        # [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    """

    def __init__(self, unsupported: Callable[[str], Failure]) -> None:
        self._unsupported = unsupported

    def write(self, request: v1.GenerateRequest) -> list[Json]:
        """The conversation and the prompt; the system prompt has a field of its own."""
        items: list[Json] = []
        for index, message in enumerate(request.messages):
            path = f"messages[{index}]"
            if message.role == v1.ROLE_ASSISTANT:
                items += self._assistant(message, path)
            elif message.role == v1.ROLE_TOOL:
                items += self._tool_results(message, path)
            else:
                role = "system" if message.role == v1.ROLE_SYSTEM else "user"
                items.append({"role": role, "content": self._content(message.parts, path)})
        if request.prompt:
            items.append({"role": "user", "content": [_text(request.prompt)]})
        return items

    def _assistant(self, message: v1.Message, path: str) -> list[Json]:
        items: list[Json] = []
        for index, part in enumerate(message.parts):
            where = f"{path}.parts[{index}]"
            kind = part.WhichOneof("content")
            own = kept_object(part, PROVIDER, where)
            if kind in (None, "thinking"):
                if own:
                    items.append(own)
            elif kind in ("text", "refusal"):
                self._said(part, own, items)
            elif kind == "tool_call":
                call = part.tool_call
                item: Json = {"type": "function_call", "call_id": call.id, "name": call.name}
                item["arguments"] = call.arguments or "{}"
                items.append(item | own)
            else:
                raise self._unsupported(f"{where}.{kind}")
        return items

    def _said(self, part: v1.Part, own: Json, items: list[Json]) -> None:
        if part.refusal:
            content: Json = {"type": "refusal", "refusal": part.refusal}
        elif part.text:
            content = {"type": "output_text", "text": part.text}
        else:
            return
        # Newer models want to know which of their messages were comments on the way.
        message: Json = {"role": "assistant", **own}
        before = items[-1] if items else {}
        if before.get("role") == "assistant" and before.get("phase") == message.get("phase"):
            before["content"].append(content)
        else:
            items.append({**message, "content": [content]})

    def _tool_results(self, message: v1.Message, path: str) -> list[Json]:
        items: list[Json] = []
        for index, part in enumerate(message.parts):
            if part.WhichOneof("content") is None:
                continue
            result = part.tool_result
            content = self._content(result.parts, f"{path}.parts[{index}].tool_result")
            # The API has no place for the flag; said in words, the model can still act on it.
            if result.is_error:
                content.insert(0, _text("Error:"))
            output: object = content
            if all(one["type"] == "input_text" for one in content):
                output = "\n".join(one["text"] for one in content)
            items.append(
                {"type": "function_call_output", "call_id": result.tool_call_id, "output": output}
            )
        return items

    def _content(self, parts: object, path: str) -> list[Json]:
        content: list[Json] = []
        for index, part in enumerate(parts):  # type: ignore[var-annotated, arg-type] # protobuf's own list
            kind = part.WhichOneof("content")
            where = f"{path}.parts[{index}].{kind}"
            if kind == "text":
                content.append(_text(part.text))
            elif kind == "image":
                image: Json = {"type": "input_image", "image_url": image_url(part.image)}
                content.append(image | {"detail": DETAIL.get(part.image.detail, "auto")})
            elif kind == "document":
                content.append(_file(part.document))
            elif kind is not None:
                raise self._unsupported(where)
        return content


def _text(text: str) -> Json:
    return {"type": "input_text", "text": text}


def _file(document: v1.Document) -> Json:
    kind = document.WhichOneof("source")
    item: Json = {"type": "input_file"}
    if kind == "file_id":
        return item | {"file_id": document.file_id}
    if kind == "url":
        return item | {"file_url": document.url}
    # With data a name is required, whatever it is.
    item["filename"] = document.title or "document"
    return item | {"file_data": data_url(document.media_type, document.data)}
