"""Pictures in a prompt: the seam to whatever reads them, and which ones are handed to it.

How a picture becomes numbers is the sidecar's to know; Penstock fetches none.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from penstock import v1

from penstock_server.errors import Failure, Violation


class ImageReader(Protocol):
    """Encodes conversations that hold pictures; a model's own, kept in ``Loaded``.

    Example::

        tokens, images = reader.read([{"role": "user", "content": [
            {"type": "image", "data": b"...", "media_type": "image/png"},
            {"type": "text", "text": "What is this?"},
        ]}])
    """

    def read(
        self, messages: Sequence[Mapping[str, Any]], **variables: object
    ) -> tuple[Sequence[int], object]:
        """Token ids up to where the answer begins, and what the backend finds in ``Job.images``.

        ``messages`` are as for ``Tokenizer.encode_chat``, but contents may be lists of parts;
        ``variables`` are the chat template's. Called on a worker's thread, one at a time. Raises
        ``TemplateRefusal``, or the `Failure` that says what is wrong with a picture.
        """
        ...


def check_url(image: v1.Image, field: str) -> None:
    """Refuse a picture that would have to be fetched: UNSUPPORTED_FEATURE."""
    if image.WhichOneof("source") == "url" and not image.url[:5].lower() == "data:":
        raise Failure.unsupported(
            field,
            f"{field}: local models fetch nothing from the network; send the bytes, as data or "
            "as a data: URL",
        )


def content(image: v1.Image, field: str) -> dict[str, Any]:
    """A picture as `ImageReader` takes it. Raises INVALID_REQUEST for a damaged data: URL."""
    if image.WhichOneof("source") == "data":
        return {"type": "image", "data": image.data, "media_type": image.media_type}
    head, comma, body = image.url[5:].partition(",")
    media_type, *options = head.split(";")
    try:
        if not comma:
            raise ValueError("there is no comma in it")
        data = unquote_to_bytes(body)
        if "base64" in options:
            data = base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error) as error:
        raise Failure.invalid([Violation(f"{field}.url", f"is no data: URL: {error}")]) from error
    return {"type": "image", "data": data, "media_type": image.media_type or media_type}
