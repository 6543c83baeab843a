"""The JSON that Ollama answers: only the fields that are read.

Formats: docs.ollama.com, "API reference", and ``api/types.go`` of ollama/ollama. Go leaves out what
is empty, so nearly everything may be missing.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from penstock_server.providers.openai.chat_json import LogprobJson

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class FunctionJson(msgspec.Struct, gc=False):
    """message.tool_calls[].function."""

    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class ToolCallJson(msgspec.Struct, gc=False):
    """message.tool_calls[]; older versions give no id."""

    function: FunctionJson
    id: str | None = None


class MessageJson(msgspec.Struct, gc=False):
    """message."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[ToolCallJson] | None = None


class ChatJson(msgspec.Struct, gc=False):
    """A line of a chat's stream, or a whole chat; or an error in its place."""

    model: str | None = None
    message: MessageJson | None = None
    logprobs: list[LogprobJson] | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Count | None = None
    eval_count: Count | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_duration: int | None = None
    eval_duration: int | None = None
    error: Any = None


class ProgressJson(msgspec.Struct, gc=False):
    """A line of a pull's stream."""

    status: str = ""
    digest: str | None = None
    total: int | None = None
    completed: int | None = None
    error: Any = None


class ListedJson(msgspec.Struct):
    """models[] of /api/tags and /api/ps."""

    name: str
    modified_at: str | None = None
    context_length: Count | None = None


class ListJson(msgspec.Struct):
    """/api/tags and /api/ps; null where there is none."""

    models: list[ListedJson] | None = None


class ShowJson(msgspec.Struct):
    """/api/show."""

    capabilities: list[str] | None = None
    model_info: dict[str, Any] | None = None


class EmbedJson(msgspec.Struct):
    """/api/embed."""

    embeddings: list[list[float]]
    model: str | None = None
    prompt_eval_count: Count | None = None


# Each raises ValueError or RecursionError for anything else.
decode_chat = msgspec.json.Decoder(ChatJson).decode
decode_progress = msgspec.json.Decoder(ProgressJson).decode
decode_list = msgspec.json.Decoder(ListJson).decode
decode_show = msgspec.json.Decoder(ShowJson).decode
decode_embed = msgspec.json.Decoder(EmbedJson).decode
