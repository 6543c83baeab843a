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
from penstock._tool_loop import ToolLoopError
from penstock.archive import SessionError
from penstock.comparison import Compared, Comparison, acompare, compare
from penstock.conversation import Message
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
from penstock.events import (
    AsyncEventEmitter,
    Event,
    EventEmitter,
    EventType,
    GlobalEventBus,
    aemit_global,
    emit_global,
    on_global,
)
from penstock.llm import LLM, acreate_llm, create_llm
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
from penstock.response import GenerateResponse
from penstock.session import BasicSession
from penstock.streaming import AsyncChunkStream, ChunkStream
from penstock.structured import StructuredOutputError
from penstock.sync import Client, ResponseStream, Stream
from penstock.tools import (
    ToolCall,
    ToolDefinition,
    ToolRegistry,
    aexecute_tools,
    execute_tools,
    tool,
)

__all__ = [
    "LLM",
    "AsyncChunkStream",
    "AsyncEventEmitter",
    "AuthenticationError",
    "BasicSession",
    "CancelledCallError",
    "ChunkStream",
    "Client",
    "Compared",
    "Comparison",
    "ContentRefusedError",
    "ContextLengthError",
    "DeadlineExceededError",
    "Event",
    "EventEmitter",
    "EventType",
    "FieldViolation",
    "GenerateOptions",
    "GenerateResponse",
    "GlobalEventBus",
    "InternalError",
    "InvalidRequestError",
    "Message",
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
    "SessionError",
    "SidecarLostError",
    "Stream",
    "StructuredOutputError",
    "TLSOptions",
    "ToolCall",
    "ToolDefinition",
    "ToolLoopError",
    "ToolRegistry",
    "UnsupportedFeatureError",
    "__version__",
    "acompare",
    "acreate_llm",
    "aemit_global",
    "aexecute_tools",
    "aio",
    "assistant",
    "audio",
    "compare",
    "create_llm",
    "document",
    "emit_global",
    "errors",
    "execute_tools",
    "image",
    "messages",
    "on_global",
    "system",
    "text",
    "text_of",
    "thinking",
    "thinking_of",
    "tool",
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
