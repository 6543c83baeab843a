"""The ways to call: both flavours of the client, and gRPC's own stubs with the client's options."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grpc
import penstock
from penstock import aio, text_of, v1
from penstock.errors import from_rpc_error

Options = Mapping[str, Any]


class Caller(Protocol):
    """Raises `penstock.PenstockError` where a call fails."""

    async def whole(self, request: v1.GenerateRequest, timeout: float) -> str:
        """The answer."""

    async def streamed(
        self, request: v1.GenerateRequest, timeout: float, heard: Callable[[str], None]
    ) -> str:
        """The answer that completed the stream, after all pieces were ``heard``."""

    async def close(self) -> None: ...


class Aio:
    def __init__(self, target: str, options: Options) -> None:
        self._client = aio.Client(target, options=options)

    async def whole(self, request: v1.GenerateRequest, timeout: float) -> str:
        return text_of(await self._client.generate(request, timeout=timeout))

    async def streamed(
        self, request: v1.GenerateRequest, timeout: float, heard: Callable[[str], None]
    ) -> str:
        async with self._client.stream(request, timeout=timeout) as stream:
            async for piece in stream.text():
                heard(piece)
        assert stream.response is not None
        return text_of(stream.response)

    async def close(self) -> None:
        await self._client.close()


class Sync:
    def __init__(self, target: str, options: Options) -> None:
        self._client = penstock.Client(target, options=options)
        self._pool = ThreadPoolExecutor(64)

    async def whole(self, request: v1.GenerateRequest, timeout: float) -> str:
        ask = lambda: text_of(self._client.generate(request, timeout=timeout))  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self._pool, ask)

    async def streamed(
        self, request: v1.GenerateRequest, timeout: float, heard: Callable[[str], None]
    ) -> str:
        def read() -> str:
            with self._client.stream(request, timeout=timeout) as stream:
                for piece in stream.text():
                    heard(piece)
            assert stream.response is not None
            return text_of(stream.response)

        return await asyncio.get_running_loop().run_in_executor(self._pool, read)

    async def close(self) -> None:
        self._client.close()
        self._pool.shutdown()


class Stubs:
    def __init__(self, target: str, options: Options) -> None:
        from penstock._channel import CHANNEL_OPTIONS

        merged = {**CHANNEL_OPTIONS, **options}
        self._channel = grpc.aio.insecure_channel(target, options=list(merged.items()))
        self._stub = v1.GenerationServiceStub(self._channel)

    async def whole(self, request: v1.GenerateRequest, timeout: float) -> str:
        try:
            return text_of(await self._stub.Generate(request, timeout=timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def streamed(
        self, request: v1.GenerateRequest, timeout: float, heard: Callable[[str], None]
    ) -> str:
        whole = []
        asked = v1.StreamGenerateRequest(request=request)
        try:
            async for event in self._stub.StreamGenerate(asked, timeout=timeout):
                if event.part_delta.text:
                    heard(event.part_delta.text)
                if event.HasField("completed"):
                    whole.append(text_of(event.completed))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        (answer,) = whole
        return answer

    async def close(self) -> None:
        await self._channel.close()


CALLERS: Mapping[str, Callable[[str, Options], Caller]] = {
    "aio.Client": Aio,
    "Client": Sync,
    "stubs": Stubs,
}
