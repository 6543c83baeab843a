"""Penstock's client: one typed gRPC endpoint for every language model.

Synchronously::

    import penstock

    with penstock.Client("127.0.0.1:50051") as client:
        print(penstock.text_of(client.generate("Name a river.", model="local/tiny")))

Asynchronously, with the same names::

    import asyncio

    import penstock

    async def main() -> None:
        async with penstock.aio.Client("127.0.0.1:50051") as client:
            async for piece in client.stream("Name a river.", model="local/tiny").text():
                print(piece, end="", flush=True)

    asyncio.run(main())

Messages are those of `penstock.v1`, the compiled contract; `penstock.messages` makes them in
short, `penstock.errors` is what calls raise. Importing starts nothing and connects to nothing.
"""

from typing import TYPE_CHECKING

from penstock import aio, errors, messages, v1
from penstock._channel import TLSOptions
from penstock._request import GenerateOptions
from penstock.errors import (
    AuthenticationError,
    CancelledCallError,
    ContentRefusedError,
    ContextLengthError,
    DeadlineExceededError,
    FieldViolation,
    InternalError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelNotFoundError,
    PenstockError,
    PermissionDeniedError,
    ProviderAPIError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaExhaustedError,
    RateLimitError,
    ServiceUnavailableError,
    SidecarLostError,
    UnsupportedFeatureError,
)
from penstock.messages import (
    assistant,
    audio,
    document,
    image,
    system,
    text,
    text_of,
    thinking,
    thinking_of,
    tool_call,
    tool_calls_of,
    tool_result,
    user,
)
from penstock.sync import Client, ResponseStream, Stream

__all__ = [
    "AuthenticationError",
    "CancelledCallError",
    "Client",
    "ContentRefusedError",
    "ContextLengthError",
    "DeadlineExceededError",
    "FieldViolation",
    "GenerateOptions",
    "InternalError",
    "InvalidRequestError",
    "MessageTooLargeError",
    "ModelNotFoundError",
    "PenstockError",
    "PermissionDeniedError",
    "ProviderAPIError",
    "ProviderError",
    "ProviderTimeoutError",
    "ProviderUnavailableError",
    "QuotaExhaustedError",
    "RateLimitError",
    "ResponseStream",
    "ServiceUnavailableError",
    "SidecarLostError",
    "Stream",
    "TLSOptions",
    "UnsupportedFeatureError",
    "__version__",
    "aio",
    "assistant",
    "audio",
    "document",
    "errors",
    "image",
    "messages",
    "system",
    "text",
    "text_of",
    "thinking",
    "thinking_of",
    "tool_call",
    "tool_calls_of",
    "tool_result",
    "user",
    "v1",
]


if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        if name == "__version__":  # on demand: finding it out takes longer than our own imports
            from penstock._channel import version

            return version()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
