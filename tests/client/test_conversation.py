"""Messages and media in every shape, as they arrive on the server."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penstock
import pytest
from penstock import v1

from tests.client.faces import Face

if TYPE_CHECKING:
    from tests.client.conftest import Server

PNG = b"\x89PNG\r\n\x1a\n...."
WAV = b"RIFF\0\0\0\0WAVEfmt "
PDF = b"%PDF-1.7 ..."


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def sent(llm: Face, server: Server, **options: Any) -> list[v1.Message]:
    await llm.generate(options.pop("prompt", ""), **options)
    return list(server.calls[-1].request.messages)


MESSAGES: list[tuple[str, Any, v1.Message]] = [
    ("prompt's shape", {"role": "user", "content": "Hi"}, penstock.user("Hi")),
    (
        "AbstractCore's",
        {"role": "user", "content": "Hi", "timestamp": "2026-01-01", "metadata": {"a": 1}},
        penstock.user("Hi"),
    ),
    (
        "a name",
        penstock.Message("user", "Hi", metadata={"name": "Ada", "location": "Oslo"}),
        penstock.user("Hi", name="Ada"),
    ),
    ("no name", penstock.Message("user", "Hi", metadata={"name": "user"}), penstock.user("Hi")),
    ("system", {"role": "system", "content": "Be kind."}, penstock.system("Be kind.")),
    ("developer", {"role": "developer", "content": "Be kind."}, penstock.system("Be kind.")),
    ("the contract's", penstock.user("Hi"), penstock.user("Hi")),
    (
        "its own message of an answer",
        penstock.Message("assistant", "Hi", wire=penstock.assistant(penstock.thinking("hm"), "Hi")),
        penstock.assistant(penstock.thinking("hm"), "Hi"),
    ),
    (
        "an answer that was edited",
        penstock.Message("assistant", "Ho", wire=penstock.assistant(penstock.thinking("hm"), "Hi")),
        penstock.assistant("Ho"),
    ),
    (
        "parts",
        {
            "role": "user",
            "content": [
                "one",
                {"type": "text", "text": "two"},
                {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                {"type": "input_audio", "input_audio": {"data": b64(WAV), "format": "wav"}},
                {
                    "type": "file",
                    "file": {
                        "filename": "a.pdf",
                        "file_data": f"data:application/pdf;base64,{b64(PDF)}",
                    },
                },
                {"type": "file", "file": {"file_id": "file-1"}},
                penstock.text("last"),
            ],
        },
        penstock.user(
            "one",
            "two",
            penstock.image("https://x/y.png", detail="low"),
            penstock.image("data:image/png;base64,AAAA"),
            penstock.audio(WAV),
            penstock.document(PDF, title="a.pdf"),
            penstock.document(file_id="file-1"),
            "last",
        ),
    ),
    (
        "OpenAI's tool calls",
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"b": 1, "a": 2}'},
                }
            ],
        },
        penstock.assistant(penstock.tool_call("c1", "weather", '{"b": 1, "a": 2}')),
    ),
    (
        "AbstractCore's tool calls",
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"name": "weather", "arguments": {"city": "Oslo"}, "call_id": "c1"},
                v1.ToolCall(id="c2", name="now", arguments="{}"),
            ],
        },
        penstock.assistant(
            "Let me see.",
            penstock.tool_call("c1", "weather", '{"city":"Oslo"}'),
            penstock.tool_call("c2", "now"),
        ),
    ),
    (
        "OpenAI's tool result",
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        penstock.tool_result("c1", "rain"),
    ),
    (
        "AbstractCore's tool result",
        {"role": "tool", "content": "no such city", "call_id": "c1", "is_error": True},
        penstock.tool_result("c1", "no such city", is_error=True),
    ),
]


@pytest.mark.parametrize(
    ("message", "expected"),
    [(message, expected) for _, message, expected in MESSAGES],
    ids=[name for name, _, _ in MESSAGES],
)
async def test_messages(llm: Face, server: Server, message: Any, expected: v1.Message) -> None:
    last = penstock.user("Go on.")

    assert await sent(llm, server, messages=[message], prompt="Go on.") == [expected, last]


async def test_an_answer_without_anything_is_left_out(llm: Face, server: Server) -> None:
    empty = v1.Message(role=v1.ROLE_ASSISTANT)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}, empty]

    found = await sent(llm, server, messages=messages, prompt="Go on.")
    assert found == [penstock.user("Hi"), penstock.user("Go on.")]


WRONG: list[tuple[Any, str]] = [
    (5, r"messages\[0\]: int is no message"),
    ({"content": "Hi"}, r"messages\[0\].role: None is none of system"),
    ({"role": "king", "content": "Hi"}, r"messages\[0\].role: 'king' is none of"),
    ({"role": "user", "content": 5}, r"messages\[0\].content: neither text nor a list"),
    ({"role": "user", "content": [{"type": "video"}]}, r"content\[0\]: no part .*video"),
    ({"role": "user", "content": [{"type": "text"}]}, r"content\[0\]: KeyError\('text'\)"),
    ({"role": "tool", "content": "x"}, r"messages\[0\].tool_call_id: "),
    (
        {"role": "assistant", "content": "", "tool_calls": ["x"]},
        r"messages\[0\].tool_calls: 'x' is no tool call",
    ),
]


@pytest.mark.parametrize(("message", "problem"), WRONG)
async def test_wrong_messages(llm: Face, server: Server, message: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        await llm.generate("Go on.", messages=[message])
    assert server.calls == []


async def test_messages_read_no_files(llm: Face, server: Server, tmp_path: Path) -> None:
    """They may come from someone else than the program: only `media` reads files."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    for part in (
        {"type": "image_url", "image_url": {"url": str(secret)}},
        {"type": "input_image", "image_url": str(secret)},
        {"type": "file", "file": {"file_data": str(secret)}},
    ):
        with pytest.raises(ValueError, match="URL"):
            await llm.generate(messages=[{"role": "user", "content": [part]}])
    assert server.calls == []


# --- media ------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "cat.png").write_bytes(PNG)
    (tmp_path / "memo.wav").write_bytes(WAV)
    (tmp_path / "report.pdf").write_bytes(PDF)
    (tmp_path / "notes.txt").write_text("It rains.\n", "utf-8")
    (tmp_path / "config.yaml").write_text("a: ä\n", "utf-8")
    (tmp_path / "table.csv").write_text("a,b\n", "utf-8")
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0")
    (tmp_path / "thing.zzz").write_bytes(b"\0\0\0")
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    return tmp_path


async def test_media(llm: Face, server: Server, files: Path) -> None:
    media: list[Any] = [
        files / "cat.png",
        str(files / "memo.wav"),
        files / "report.pdf",
        files / "notes.txt",
        files / "config.yaml",
        files / "table.csv",
        PNG,
        PDF,
        "https://example.com/cat.jpg?size=1",
        "https://example.com/report.pdf",
        f"data:image/png;base64,{b64(PNG)}",
        "data:,It%20rains.",
        {"path": str(files / "cat.png")},
        {"url": "https://example.com/cat", "media_type": "image/webp"},
        {"data": b"plain", "mime_type": "text/plain"},
        {"data": b64(PNG), "media_type": "image/png"},
        penstock.text("a part"),
    ]
    picture, memo = penstock.image(PNG), penstock.audio(WAV)
    [message] = await sent(llm, server, prompt="Look.", media=media)

    assert (
        message.parts
        == penstock.user(
            "Look.",
            picture,
            memo,
            penstock.document(PDF, title="report.pdf"),
            "notes.txt:\n\nIt rains.\n",
            "config.yaml:\n\na: ä\n",
            "table.csv:\n\na,b\n",
            picture,
            penstock.document(PDF),
            penstock.image("https://example.com/cat.jpg?size=1", media_type="image/jpeg"),
            penstock.document("https://example.com/report.pdf", media_type="application/pdf"),
            picture,
            "It rains.",
            picture,
            penstock.image("https://example.com/cat", media_type="image/webp"),
            "plain",
            picture,
            "a part",
        ).parts
    )


async def test_media_alone(llm: Face, server: Server, files: Path) -> None:
    assert await sent(llm, server, media=[PNG]) == [penstock.user(penstock.image(PNG))]


WRONG_MEDIA: list[tuple[Any, type[Exception], str]] = [
    ("film.mp4", ValueError, r"media\[0\]: video/mp4 is nothing that models take"),
    ("thing.zzz", ValueError, r"media\[0\]: cannot tell the media type"),
    ("latin.txt", ValueError, r"media\[0\]: .*decode"),
    (b"\0\0", ValueError, r"media\[0\]: cannot tell the media type of the contents"),
    ("missing.png", FileNotFoundError, "missing.png"),
    ("https://example.com/cat", ValueError, r"media\[0\]: .* give media_type, too"),
    ("https://example.com/memo.wav", ValueError, r"media\[0\]: sounds are sent as bytes"),
    ({"url": "cat.png"}, ValueError, r"media\[0\]: url: 'cat.png' is none"),
    ({"name": "cat.png"}, ValueError, r"media\[0\]: a dict says path, url or data"),
    ({"data": "?", "media_type": "image/png"}, ValueError, r"media\[0\]: "),
    ("data:image/png;base64", ValueError, r"media\[0\]: no data: URL"),
    (5, ValueError, r"media\[0\]: a path, bytes, a URL, a part or a dict, not int"),
]


@pytest.mark.parametrize(("medium", "kind", "problem"), WRONG_MEDIA)
async def test_wrong_media(
    llm: Face,
    server: Server,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    medium: Any,
    kind: type[Exception],
    problem: str,
) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(kind, match=problem):
        await llm.generate("Look.", media=[medium])
    assert server.calls == []


async def test_reading_a_file_stops_no_event_loop(
    llm: Face, server: Server, tmp_path: Path
) -> None:
    pipe = tmp_path / "slow.yaml"
    os.mkfifo(pipe)  # whoever reads it waits until someone writes
    async with asyncio.timeout(20):
        task = asyncio.create_task(llm.generate("Look.", media=[pipe]))
        await asyncio.sleep(0)  # the task begins to read
        written = asyncio.to_thread(pipe.write_text, "a: 1", "utf-8")
        await asyncio.gather(task, written)

    assert server.calls[0].request.messages[0].parts[1].text == "slow.yaml:\n\na: 1"


def test_a_message_as_a_dict() -> None:
    message = penstock.Message("user", "Hi", metadata={"name": "Ada"})

    assert penstock.Message.from_dict(message.to_dict()) == message
    assert (message.name, message.location) == ("Ada", None)
