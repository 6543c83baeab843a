"""What is said to a model, and what it said: short ways to make and to read protobuf messages.

Every helper returns a message of ``penstock.v1``; there are no other types. Sending them belongs
to ``sync`` and ``aio``, and whether a model takes them is for the server to say.

Example::

    messages = [
        penstock.user("What is on this picture?", penstock.image("cat.png")),
        penstock.assistant("A cat."),
        penstock.user("What colour is it?"),
    ]
"""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from penstock import v1
from penstock._request import to_json

Content: TypeAlias = str | v1.Part
"""A piece of a message: text, or a part made by one of the helpers."""

File: TypeAlias = str | os.PathLike[str] | bytes
"""A file's path, or its contents. As a str, also a URL where the helper says so."""

_DETAIL = {
    "auto": v1.IMAGE_DETAIL_UNSPECIFIED,
    "low": v1.IMAGE_DETAIL_LOW,
    "high": v1.IMAGE_DETAIL_HIGH,
}

# How files of these types begin: surer than a name, and contents in memory have none.
_SIGNATURES: Sequence[tuple[bytes, str]] = (
    (rb"\x89PNG\r\n\x1a\n", "image/png"),
    (rb"\xff\xd8\xff", "image/jpeg"),
    (rb"GIF8[79]a", "image/gif"),
    (rb"RIFF.{4}WEBP", "image/webp"),
    (rb"RIFF.{4}WAVE", "audio/wav"),
    (rb"ID3|\xff[\xf2\xf3\xfb]", "audio/mpeg"),
    (rb"OggS", "audio/ogg"),
    (rb"fLaC", "audio/flac"),
    (rb"%PDF-", "application/pdf"),
)

_URL = re.compile("(https?://|data:)", re.IGNORECASE)


def system(*content: Content) -> v1.Message:
    """Instructions to the model, as a message.

    Prefer ``system=`` of the calls, which every provider takes.

    Example::

        penstock.system("Answer in one sentence.")
    """
    return _message(v1.ROLE_SYSTEM, content)


def user(*content: Content, name: str = "") -> v1.Message:
    """What the person or program that asks says; ``name`` tells several of them apart.

    Example::

        penstock.user("What is this?", penstock.image("cat.png"))
    """
    return _message(v1.ROLE_USER, content, name)


def assistant(*content: Content) -> v1.Message:
    """What the model said earlier.

    An answer's own ``response.message`` is better where there is one: it also holds what the
    provider needs to see again.

    Example::

        penstock.assistant("A cat.")
    """
    return _message(v1.ROLE_ASSISTANT, content)


def tool_result(call: v1.ToolCall | str, *content: Content, is_error: bool = False) -> v1.Message:
    """What a tool answered to ``call`` (or to the call with that id), as a message.

    ``is_error`` says that the tool failed; the content then says how.

    Example::

        messages.append(response.message)
        for call in penstock.tool_calls_of(response):
            messages.append(penstock.tool_result(call, run(call)))
    """
    call_id = call if isinstance(call, str) else call.id
    result = v1.ToolResult(tool_call_id=call_id, parts=_parts(content), is_error=is_error)
    return v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=result)])


def text(value: str) -> v1.Part:
    """Plain text as a part; where content is taken, a plain str does the same."""
    return v1.Part(text=value)


def image(
    source: File, *, media_type: str = "", detail: Literal["auto", "low", "high"] = "auto"
) -> v1.Part:
    """A picture: a file's path, its bytes, or an https: or data: URL.

    Args:
        source: paths are read at once; URLs are fetched by the provider.
        media_type: such as "image/png". Default: found out from the contents or the name.
        detail: how closely the model should look; more costs more tokens.

    Raises:
        OSError: the file cannot be read.
        ValueError: the media type cannot be found out.

    Example::

        penstock.user("What is this?", penstock.image("cat.png", detail="low"))
    """
    if _is_url(source):
        picture = v1.Image(url=str(source), media_type=media_type)
    else:
        data, found = _read(source, media_type)
        picture = v1.Image(data=data, media_type=found)
    picture.detail = _DETAIL[detail]
    return v1.Part(image=picture)


def audio(source: File, *, media_type: str = "") -> v1.Part:
    """A sound recording: a file's path, or its bytes. Media type and errors are as in `image`.

    Example::

        penstock.user("What is said here?", penstock.audio("memo.wav"))
    """
    data, found = _read(source, media_type)
    return v1.Part(audio=v1.Audio(data=data, media_type=found))


def document(
    source: File = "", *, file_id: str = "", media_type: str = "", title: str = ""
) -> v1.Part:
    """A file for the model to read: a path, bytes, an https: URL, or a provider's own file id.

    Args:
        source: a path, which is read at once, bytes, or a URL, which the provider fetches.
        file_id: instead of source, the id of a file that was uploaded to the provider before.
        media_type: such as "application/pdf". Default: as in `image`.
        title: shown to the model where the provider allows it. Default: the file's name.

    Raises:
        OSError: the file cannot be read.
        ValueError: the media type cannot be found out, or not exactly one source is given.

    Example::

        penstock.user("Summarise this.", penstock.document("report.pdf"))
    """
    if bool(source) == bool(file_id):
        raise ValueError("document: give either a source or a file_id")
    if file_id:
        file = v1.Document(file_id=file_id, media_type=media_type, title=title)
    elif _is_url(source):
        file = v1.Document(url=str(source), media_type=media_type, title=title)
    else:
        data, found = _read(source, media_type)
        name = "" if isinstance(source, bytes) else Path(source).name
        file = v1.Document(data=data, media_type=found, title=title or name)
    return v1.Part(document=file)


def thinking(value: str) -> v1.Part:
    """A thought of the model, for a conversation that is written down by hand.

    Providers that sign thoughts accept only their own: send ``response.message`` back instead.
    """
    return v1.Part(thinking=v1.Thinking(text=value))


def tool_call(id: str, name: str, arguments: Mapping[str, Any] | str = "{}") -> v1.Part:  # noqa: A002 - the contract's name
    """A model's wish to have a tool called, for a conversation that is written down by hand.

    Example::

        penstock.assistant(penstock.tool_call("call_1", "weather", {"city": "Oslo"}))
    """
    return v1.Part(tool_call=v1.ToolCall(id=id, name=name, arguments=to_json(arguments)))


def text_of(answer: v1.GenerateResponse | v1.Message) -> str:
    """The text of an answer or a message; "" where it has none.

    Thoughts, refusals and tool calls are left out.

    Example::

        print(penstock.text_of(client.generate("Hi", model="local/tiny")))
    """
    return "".join(part.text for part in _message_of(answer).parts)


def thinking_of(answer: v1.GenerateResponse | v1.Message) -> str:
    """What the model thought before it answered, as far as the provider shows it."""
    return "".join(part.thinking.text for part in _message_of(answer).parts)


def tool_calls_of(answer: v1.GenerateResponse | v1.Message) -> list[v1.ToolCall]:
    """The tools that the model wants called, in order; ``arguments`` is JSON text.

    Example::

        for call in penstock.tool_calls_of(response):
            print(call.name, json.loads(call.arguments))
    """
    parts = _message_of(answer).parts
    return [part.tool_call for part in parts if part.HasField("tool_call")]


def _message_of(answer: v1.GenerateResponse | v1.Message) -> v1.Message:
    return answer.message if isinstance(answer, v1.GenerateResponse) else answer


def _message(role: v1.Role.ValueType, content: Sequence[Content], name: str = "") -> v1.Message:
    return v1.Message(role=role, parts=_parts(content), name=name)


def _parts(content: Sequence[Content]) -> list[v1.Part]:
    return [text(piece) if isinstance(piece, str) else piece for piece in content]


def _is_url(source: File) -> bool:
    return isinstance(source, str) and _URL.match(source) is not None


def media_type_of(source: File) -> str:
    """What a file is, by how it begins or else by its name, such as "image/png".

    Raises:
        OSError: the file cannot be read.
        ValueError: neither tells.
    """
    return _read(source, "")[1]


def _read(source: File, media_type: str) -> tuple[bytes, str]:
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if media_type:
        return data, media_type
    for signature, found in _SIGNATURES:
        if re.match(signature, data, re.DOTALL):
            return data, found
    guess = None if isinstance(source, bytes) else mimetypes.guess_type(Path(source).name)[0]
    if guess is None:
        name = "the contents" if isinstance(source, bytes) else repr(os.fspath(source))
        raise ValueError(f"cannot tell the media type of {name}: give media_type=")
    return data, guess
