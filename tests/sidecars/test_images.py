"""Pictures in a prompt: what is handed to the model's own reader, and what is refused."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local import prompt
from penstock_server.local.engine import Loaded
from penstock_server.local.tokenizer import TemplateRefusal

from tests.sidecars import chat_templates
from tests.sidecars.writing import loaded

PICTURE = b"\x89PNG"
DATA = v1.Image(data=PICTURE, media_type="image/png")
IMAGE = "messages[0].parts[1].image"


class Reader:
    """Takes note of what it is given."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Any]] = []
        self.variables: dict[str, object] = {}

    def read(
        self, messages: Sequence[Mapping[str, Any]], **variables: object
    ) -> tuple[Sequence[int], object]:
        self.seen, self.variables = list(messages), variables
        if any(part.get("data") == b"" for part in messages[0]["content"]):
            raise TemplateRefusal("an empty picture")
        return [5, 6, 7], "pixels"


def question(image: v1.Image) -> v1.GenerateRequest:
    parts = [v1.Part(text="What is this?"), v1.Part(image=image)]
    return v1.GenerateRequest(messages=[v1.Message(role=v1.ROLE_USER, parts=parts)])


def seeing(reader: Reader | None) -> Loaded:
    return loaded(chat_templates.untaught(), image_reader=reader)


def failure_of(image: v1.Image, reader: Reader | None) -> Failure:
    with pytest.raises(Failure) as caught:
        prompt.check(question(image))
        prompt.make_job(question(image), seeing(reader))
    return caught.value


@pytest.mark.parametrize(
    "image",
    [
        DATA,
        v1.Image(url="data:image/png;base64," + base64.b64encode(PICTURE).decode()),
        v1.Image(url="data:image/png,%89PNG"),
    ],
)
def test_a_picture_is_handed_to_the_models_reader(image: v1.Image) -> None:
    reader = Reader()
    request = question(image)
    request.thinking.effort = v1.ThinkingOptions.EFFORT_NONE
    prompt.check(request)
    job = prompt.make_job(request, seeing(reader))
    assert (list(job.prompt), job.images) == ([5, 6, 7], "pixels")
    assert reader.seen[0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "data": PICTURE, "media_type": "image/png"},
    ]
    assert reader.variables["enable_thinking"] is False


def test_text_alone_does_not_need_it() -> None:
    reader = Reader()
    job = prompt.make_job(v1.GenerateRequest(prompt="Hi"), seeing(reader))
    assert not reader.seen
    assert job.images is None


def test_nothing_is_fetched() -> None:
    failure = failure_of(v1.Image(url="https://example.com/a.png"), Reader())
    assert failure.metadata["feature"] == IMAGE
    assert "send the bytes" in failure.message


def test_a_model_that_reads_none() -> None:
    failure = failure_of(DATA, None)
    assert failure.reason == v1.ERROR_REASON_UNSUPPORTED_FEATURE
    assert failure.metadata["feature"] == IMAGE


@pytest.mark.parametrize("url", ["data:image/png", "data:image/png;base64,%%%"])
def test_a_damaged_url(url: str) -> None:
    failure = failure_of(v1.Image(url=url), Reader())
    assert failure.reason == v1.ERROR_REASON_INVALID_REQUEST
    assert failure.violations[0].field == f"{IMAGE}.url"


def test_what_the_reader_refuses() -> None:
    failure = failure_of(v1.Image(data=b"", media_type="image/png"), Reader())
    assert failure.reason == v1.ERROR_REASON_INVALID_REQUEST
    assert "an empty picture" in failure.message
