"""Conversations with pictures, for models whose processor is the standard kind.

What the model makes of the numbers is not known here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from penstock_server.errors import Failure, Violation
from penstock_server.local.tokenizer import TemplateRefusal
from transformers import ProcessorMixin

# A picture of more pixels is a way to fill the memory: the file may be small all the same.
_MOST_PIXELS = 64_000_000


class PictureReader:
    """Reads pictures with a model's own processor; an `ImageReader`.

    What the backend finds in ``Job.images`` is a mapping: the model's further inputs, such as
    ``pixel_values``.

    Example::

        reader = PictureReader(AutoProcessor.from_pretrained(path))
        tokens, inputs = reader.read(messages)
    """

    def __init__(self, processor: ProcessorMixin) -> None:
        self._processor = processor

    def read(
        self, messages: Sequence[Mapping[str, Any]], **variables: object
    ) -> tuple[Sequence[int], Mapping[str, Any]]:
        """See `ImageReader.read`."""
        conversation = [
            {**message, "content": [_part(part) for part in _parts(message["content"])]}
            for message in messages
        ]
        try:
            processor: Any = self._processor  # its annotations leave out what it returns
            read = processor.apply_chat_template(
                conversation,
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
                **variables,
            )
        except MemoryError:
            raise
        except Exception as error:  # templates are programs that come with models: anything
            raise TemplateRefusal(str(error) or type(error).__name__) from error
        inputs: dict[str, Any] = dict(read)
        tokens: torch.Tensor = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)  # all of it
        return tokens[0].tolist(), inputs


def _parts(content: str | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part["type"] != "image":
        return part
    # Not at the module's top: only models that read pictures need it.
    from PIL import Image

    try:
        with Image.open(io.BytesIO(part["data"])) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError(f"it has more than {_MOST_PIXELS:,} pixels")
            return {"type": "image", "image": picture.convert("RGB")}
    except Exception as error:  # what a damaged file raises depends on its format
        problem = f"a picture cannot be read: {error}"
        raise Failure.invalid([Violation("messages", problem)]) from error
