"""Models that read pictures: what they answer is what generate() answers, one at a time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from penstock import v1
from penstock_hf.backend import HFBackend
from penstock_server.errors import Failure
from penstock_server.local import prompt
from penstock_server.local.backend import written
from penstock_server.local.command import ModelSpec
from penstock_server.local.engine import Loaded
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.sidecars.vocabularies import chat_tokenizer

_SIDE = 28
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llava of a few thousand parameters, as it would come from a hub."""
    directory = tmp_path_factory.mktemp("llava")
    tokenizer: Any = chat_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    image = tokenizer.convert_tokens_to_ids("<image>")
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(5)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            **small, num_attention_heads=4, image_size=_SIDE, patch_size=14, projection_dim=32
        ),
        text_config=LlamaConfig(
            **small,
            vocab_size=len(tokenizer) + 5,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.4,
        ),
        image_token_index=image,
    )
    LlavaForConditionalGeneration(config).save_pretrained(directory)
    square = {"height": _SIDE, "width": _SIDE}
    LlavaProcessor(  # type: ignore[no-untyped-call]
        CLIPImageProcessorPil(size={"shortest_edge": _SIDE}, crop_size=square),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(directory: Path) -> tuple[HFBackend, Loaded]:
    backend = HFBackend(ModelSpec(str(directory), device="cpu", threads=1))
    return backend, backend.load(lambda progress, stage: None)


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(file, "PNG")
    return file.getvalue()


def asked(data: bytes) -> v1.GenerateRequest:
    parts = [
        v1.Part(image=v1.Image(data=data, media_type="image/png")),
        v1.Part(text="What is this?"),
    ]
    sampling = v1.Sampling(temperature=0, max_output_tokens=12)
    message = v1.Message(role=v1.ROLE_USER, parts=parts)
    return v1.GenerateRequest(model="local/llava", messages=[message], sampling=sampling)


def answer(model: tuple[HFBackend, Loaded], data: bytes) -> list[int]:
    backend, loaded = model
    job = prompt.make_job(asked(data), loaded)
    for _ in written(backend, job, 12):
        pass
    return job.tokens[len(job.prompt) :]


def test_what_is_said_of_a_picture_is_what_generate_says(
    model: tuple[HFBackend, Loaded], directory: Path
) -> None:
    _, loaded = model
    assert (loaded.max_running, loaded.one_at_a_time) == (1, "it reads images, too")
    job = prompt.make_job(asked(picture("red")), loaded)
    assert isinstance(job.images, dict)
    plain: Any = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    expected = plain.generate(
        input_ids=torch.tensor([list(job.prompt)]),
        attention_mask=torch.ones(1, len(job.prompt), dtype=torch.long),
        **job.images,
        do_sample=False,
        max_new_tokens=12,
    )[0, len(job.prompt) :].tolist()
    found = answer(model, picture("red"))
    assert found == expected[: len(found)]
    assert len(found) > 3
    assert answer(model, picture("blue")) != found, "the picture makes no difference"


def test_a_damaged_picture_is_a_wrong_request(model: tuple[HFBackend, Loaded]) -> None:
    with pytest.raises(Failure) as caught:
        prompt.make_job(asked(b"no picture"), model[1])
    assert caught.value.reason == v1.ERROR_REASON_INVALID_REQUEST
    assert "picture cannot be read" in caught.value.message
