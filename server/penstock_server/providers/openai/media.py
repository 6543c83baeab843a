"""Images, sounds and files as OpenAI's two APIs name them. Messages do not belong here."""

from __future__ import annotations

from collections.abc import Mapping

from penstock import v1

from penstock_server.providers.body import data_url

DETAIL: Mapping[v1.ImageDetail.ValueType, str] = {
    v1.IMAGE_DETAIL_LOW: "low",
    v1.IMAGE_DETAIL_HIGH: "high",
}
"""How closely to look; what is not in here is left to the provider."""

AUDIO_FORMAT: Mapping[str, str] = {
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}
"""Media type → ``input_audio.format``."""


def image_url(image: v1.Image) -> str:
    """The picture's own URL, or one that holds it."""
    if image.WhichOneof("source") == "url":
        return image.url
    return data_url(image.media_type, image.data)
