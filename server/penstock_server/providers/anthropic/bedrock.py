"""Amazon's event streams: Bedrock wraps each of Anthropic's events into a binary frame.

Format: docs.aws.amazon.com, "Amazon Transcribe: event stream encoding" (the same everywhere), read
by botocore; in a frame's payload, ``bytes`` is the event in base64. What an event means is
``answer``'s.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec

from penstock_server.providers.anthropic.answer import AnthropicAnswer
from penstock_server.providers.transport.sse import ServerSentEvent

if TYPE_CHECKING:
    from botocore.eventstream import EventStreamBuffer


class _FrameJson(msgspec.Struct):
    bytes: str | None = None
    message: str | None = None


_decode_frame = msgspec.json.Decoder(_FrameJson).decode


class BedrockAnswer(AnthropicAnswer):
    """One answer from Bedrock."""

    _buffer: EventStreamBuffer | None = None

    def feed(self, piece: bytes) -> None:
        """Hear every frame that ``piece`` completes, up to the last word."""
        if not piece:
            self._cut()
            return
        from botocore.eventstream import EventStreamBuffer, ParserError

        if self._buffer is None:
            self._buffer = EventStreamBuffer()
        self._buffer.add_data(piece)
        try:
            for message in self._buffer:
                self._hear_frame(message.headers, message.payload)
                if self.ended:
                    return
        except ParserError as error:  # a broken checksum, an impossible length
            raise self._errors.nonsense(f"sent a broken event stream: {error}") from None

    def _hear_frame(self, headers: dict[str, object], payload: bytes) -> None:
        kind = headers.get(":message-type")
        frame = self._errors.decoded(_decode_frame, payload or b"{}")
        if kind == "event":
            if frame.bytes is not None:
                self._hear(ServerSentEvent("message", base64.b64decode(frame.bytes)))
            return
        code = headers.get(":exception-type") or headers.get(":error-code") or ""
        message = frame.message or headers.get(":error-message") or ""
        code = str(code)[:1].upper() + str(code)[1:]  # as the HTTP API writes it
        raise self._errors.failure(msgspec.json.encode({"__type": code, "message": message}))
