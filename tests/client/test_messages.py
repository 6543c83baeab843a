"""The helpers that make and read messages."""

from __future__ import annotations

from pathlib import Path

import penstock
import pytest
from penstock import v1

PNG = b"\x89PNG\r\n\x1a\n..."


def test_who_speaks() -> None:
    assert penstock.system("a") == v1.Message(role=v1.ROLE_SYSTEM, parts=[v1.Part(text="a")])
    assert penstock.user("a", name="Ann").name == "Ann"
    assert penstock.user("a").role == v1.ROLE_USER
    assert penstock.assistant("a").role == v1.ROLE_ASSISTANT


def test_texts_and_parts_mix() -> None:
    message = penstock.user("look:", penstock.image(PNG), penstock.text("well?"))

    assert [part.WhichOneof("content") for part in message.parts] == ["text", "image", "text"]


def test_tool_calls_and_results() -> None:
    part = penstock.tool_call("call_1", "weather", {"city": "Tromsø"})
    (call,) = penstock.tool_calls_of(penstock.assistant("Let me see.", part))
    result = penstock.tool_result(call, "rain", is_error=True)

    assert call.arguments == '{"city":"Tromsø"}'
    assert penstock.tool_call("c", "f").tool_call.arguments == "{}"
    assert penstock.tool_call("c", "f", '{"a": 1}').tool_call.arguments == '{"a": 1}'
    assert result.role == v1.ROLE_TOOL
    assert result.parts[0].tool_result == v1.ToolResult(
        tool_call_id="call_1", parts=[v1.Part(text="rain")], is_error=True
    )
    assert penstock.tool_result("call_2").parts[0].tool_result.tool_call_id == "call_2"


def test_reading_an_answer() -> None:
    message = penstock.assistant(
        penstock.thinking("hm"), "one ", penstock.tool_call("c", "f"), "two"
    )
    response = v1.GenerateResponse(message=message)

    for answer in (message, response):
        assert penstock.text_of(answer) == "one two"
        assert penstock.thinking_of(answer) == "hm"
        assert [call.name for call in penstock.tool_calls_of(answer)] == ["f"]
    assert penstock.text_of(v1.GenerateResponse()) == ""
    assert penstock.tool_calls_of(v1.GenerateResponse()) == []


@pytest.mark.parametrize(
    ("start", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\n\x00\x00WEBPVP8 ", "image/webp"),
    ],
)
def test_images_know_their_media_type(start: bytes, media_type: str, tmp_path: Path) -> None:
    misnamed = tmp_path / "picture.bin"
    misnamed.write_bytes(start)

    assert penstock.image(start).image == v1.Image(data=start, media_type=media_type)
    assert penstock.image(misnamed).image.media_type == media_type
    assert penstock.image(str(misnamed)).image.data == start


@pytest.mark.parametrize("url", ["https://example.com/cat.png", "data:image/png;base64,AAAA"])
def test_image_urls_are_not_fetched(url: str) -> None:
    assert penstock.image(url).image == v1.Image(url=url)


def test_image_detail() -> None:
    assert penstock.image(PNG).image.detail == v1.IMAGE_DETAIL_UNSPECIFIED
    assert penstock.image(PNG, detail="low").image.detail == v1.IMAGE_DETAIL_LOW


def test_audio(tmp_path: Path) -> None:
    wav = b"RIFF\x24\x00\x00\x00WAVEfmt "

    assert penstock.audio(wav).audio == v1.Audio(data=wav, media_type="audio/wav")
    assert penstock.audio(b"\xff\xfb\x90").audio.media_type == "audio/mpeg"
    assert penstock.audio(b"?", media_type="audio/x").audio.media_type == "audio/x"


def test_documents(tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    report.write_text("all well")

    assert penstock.document(report).document == v1.Document(
        data=b"all well", media_type="text/plain", title="report.txt"
    )
    assert penstock.document(report, title="Report").document.title == "Report"
    assert penstock.document(b"%PDF-1.7").document.media_type == "application/pdf"
    assert penstock.document("https://example.com/a").document.url == "https://example.com/a"
    assert penstock.document(file_id="file-1").document == v1.Document(file_id="file-1")
    with pytest.raises(ValueError, match="either a source or a file_id"):
        penstock.document()


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    unknown = tmp_path / "thing.qqq"
    unknown.write_bytes(b"?")

    with pytest.raises(ValueError, match=r"thing\.qqq.*give media_type="):
        penstock.image(unknown)
    with pytest.raises(ValueError, match="the contents: give media_type="):
        penstock.audio(b"?")
    with pytest.raises(FileNotFoundError):
        penstock.image(tmp_path / "missing.png")
