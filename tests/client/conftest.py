"""A scripted ``penstock.v1`` server on a real port, and one client's face for both flavours.

A test says what the server does (``server.generate = …``), calls it through ``client``, and looks
at what arrived (``server.calls``). The synchronous client runs in threads, so that one test body
serves both: only ``connect`` knows which it is.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import grpc
import penstock
import pytest
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from penstock import v1

from tests.client.calling import execute
from tests.client.faces import llm, make_llm, make_session, told

__all__ = ["execute", "llm", "make_llm", "make_session", "told"]  # pytest finds fixtures here

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Arrived(NamedTuple):
    """A call as the server saw it."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_remaining: float | None


def answer(text: str = "Hello there.") -> v1.GenerateResponse:
    message = v1.Message(role=v1.ROLE_ASSISTANT, parts=[v1.Part(text=text)])
    return v1.GenerateResponse(
        id="answer-1", model="test/model", message=message, finish_reason=v1.FINISH_REASON_STOP
    )


def delta(text: str) -> v1.StreamGenerateResponse:
    return v1.StreamGenerateResponse(part_delta=v1.PartDelta(text=text))


class Server:
    """The server. Its handlers are attributes, for tests to replace."""

    def __init__(self) -> None:
        self.target = ""
        self.calls: list[Arrived] = []
        self.cut_off = asyncio.Event()
        """Set when a handler ended before its end."""
        self.health = health_aio.HealthServicer()
        self.generate: Callable[[Any, Context], Awaitable[v1.GenerateResponse]] = _generate
        self.stream: Callable[[Any, Context], AsyncIterator[v1.StreamGenerateResponse]] = _stream
        self.embed: Callable[[Any, Context], Awaitable[v1.EmbedResponse]] = _embed
        self.list_models: Callable[[Any, Context], Awaitable[v1.ListModelsResponse]] = _list
        self.get_model: Callable[[Any, Context], Awaitable[v1.GetModelResponse]] = _get
        self.load_model: Callable[[Any, Context], AsyncIterator[v1.LoadModelResponse]] = _load
        self.pull_model: Callable[[Any, Context], AsyncIterator[v1.PullModelResponse]] = _pull
        self.unload_model: Callable[[Any, Context], Awaitable[v1.UnloadModelResponse]] = _unload

    async def unary(self, name: str, request: Message, context: Context) -> Any:
        self._arrive(name, request, context)
        ended = False
        try:
            response = await getattr(self, name)(request, context)
            ended = True
            return response
        finally:
            if not ended:
                self.cut_off.set()

    async def streaming(self, name: str, request: Message, context: Context) -> AsyncIterator[Any]:
        self._arrive(name, request, context)
        ended = False
        try:
            async for message in getattr(self, name)(request, context):
                yield message
            ended = True
        finally:
            if not ended:
                self.cut_off.set()

    def _arrive(self, name: str, request: Message, context: Context) -> None:
        pairs: Any = context.invocation_metadata() or ()
        self.calls.append(Arrived(name, request, dict(pairs), context.time_remaining()))

    async def was_cut_off(self) -> None:
        """Waits until the server has seen the end of a call that was broken off."""
        async with asyncio.timeout(10):
            await self.cut_off.wait()


async def _generate(request: v1.GenerateRequest, context: Context) -> v1.GenerateResponse:
    return answer()


async def _stream(
    request: v1.StreamGenerateRequest, context: Context
) -> AsyncIterator[v1.StreamGenerateResponse]:
    yield v1.StreamGenerateResponse(started=v1.StreamStarted(id="answer-1", model="test/model"))
    yield v1.StreamGenerateResponse(part_started=v1.PartStarted(part=v1.Part(text="")))
    yield delta("Hello ")
    yield v1.StreamGenerateResponse(part_delta=v1.PartDelta(index=1, thinking="hm"))
    yield delta("there.")
    yield v1.StreamGenerateResponse(
        part_finished=v1.PartFinished(part=v1.Part(text="Hello there."))
    )
    yield v1.StreamGenerateResponse(completed=answer())


async def _embed(request: v1.EmbedRequest, context: Context) -> v1.EmbedResponse:
    vectors = [v1.Embedding(values=[len(text), 0.1]) for text in request.inputs]
    return v1.EmbedResponse(model="test/model", embeddings=vectors)


TINY = v1.Model(
    name="local/tiny",
    provider="local",
    capabilities=[v1.CAPABILITY_GENERATE, v1.CAPABILITY_STREAM],
    context_length=1024,
    state=v1.MODEL_STATE_READY,
)


async def _list(request: v1.ListModelsRequest, context: Context) -> v1.ListModelsResponse:
    failure = v1.ProviderFailure(
        provider="ollama", reason=v1.ERROR_REASON_PROVIDER_UNAVAILABLE, message="not reachable"
    )
    return v1.ListModelsResponse(models=[TINY], failures=[failure])


async def _get(request: v1.GetModelRequest, context: Context) -> v1.GetModelResponse:
    return v1.GetModelResponse(model=TINY)


async def _load(
    request: v1.LoadModelRequest, context: Context
) -> AsyncIterator[v1.LoadModelResponse]:
    yield v1.LoadModelResponse(progress=0.5, stage="reading weights")
    yield v1.LoadModelResponse(progress=1, stage="ready", model=TINY)


async def _pull(
    request: v1.PullModelRequest, context: Context
) -> AsyncIterator[v1.PullModelResponse]:
    yield v1.PullModelResponse(stage="pulling manifest")
    yield v1.PullModelResponse(stage="pulling 8eeb", completed_bytes=50, total_bytes=200)
    yield v1.PullModelResponse(stage="success", model=TINY)


async def _unload(request: v1.UnloadModelRequest, context: Context) -> v1.UnloadModelResponse:
    return v1.UnloadModelResponse(model=v1.Model(name="local/tiny", state=v1.MODEL_STATE_UNLOADED))


class _Generation(v1.GenerationServiceServicer):
    def __init__(self, server: Server) -> None:
        self.server = server

    async def Generate(self, request: Any, context: Any) -> Any:
        return await self.server.unary("generate", request, context)

    async def StreamGenerate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for message in self.server.streaming("stream", request, context):
            yield message


class _Embedding(v1.EmbeddingServiceServicer):
    def __init__(self, server: Server) -> None:
        self.server = server

    async def Embed(self, request: Any, context: Any) -> Any:
        return await self.server.unary("embed", request, context)


class _Models(v1.ModelServiceServicer):
    def __init__(self, server: Server) -> None:
        self.server = server

    async def ListModels(self, request: Any, context: Any) -> Any:
        return await self.server.unary("list_models", request, context)

    async def GetModel(self, request: Any, context: Any) -> Any:
        return await self.server.unary("get_model", request, context)

    async def LoadModel(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for message in self.server.streaming("load_model", request, context):
            yield message

    async def PullModel(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for message in self.server.streaming("pull_model", request, context):
            yield message

    async def UnloadModel(self, request: Any, context: Any) -> Any:
        return await self.server.unary("unload_model", request, context)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Starts scripted servers: ``await serve()``, with credentials or another address."""
    started: list[grpc.aio.Server] = []

    async def start(
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        options: tuple[tuple[str, Any], ...] = (),
    ) -> Server:
        # Its own limit stays gRPC's 4 MiB; trailers up to what the client allows.
        grpc_server = grpc.aio.server(options=options)
        server = Server()
        v1.add_GenerationServiceServicer_to_server(_Generation(server), grpc_server)
        v1.add_EmbeddingServiceServicer_to_server(_Embedding(server), grpc_server)
        v1.add_ModelServiceServicer_to_server(_Models(server), grpc_server)
        health_pb2_grpc.add_HealthServicer_to_server(server.health, grpc_server)
        if credentials is None:
            port = grpc_server.add_insecure_port(address)
        else:
            port = grpc_server.add_secure_port(address, credentials)
        await grpc_server.start()
        started.append(grpc_server)
        server.target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        return server

    yield start
    for grpc_server in started:
        await grpc_server.stop(0)


@pytest.fixture
async def server(serve: Callable[..., Awaitable[Server]]) -> Server:
    return await serve()


Fail: TypeAlias = Callable[..., Awaitable[None]]


@pytest.fixture
def fail() -> Fail:
    """Aborts a call from inside a handler, with details, or with ``raw`` bytes for them."""

    async def abort(
        context: Context, code: grpc.StatusCode, message: str, *details: Message, raw: bytes = b""
    ) -> None:
        status = Status(code=code.value[0], message=message)
        for detail in details:
            status.details.add().Pack(detail)
        if raw or details:
            value = raw or status.SerializeToString()
            context.set_trailing_metadata((("grpc-status-details-bin", value),))
        await context.abort(code, message)

    return abort


class _Threaded:
    """A synchronous client that is awaited: every call runs in a thread."""

    def __init__(self, client: penstock.Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ("stream", "load_model", "pull_model"):
            return lambda *args, **kwargs: _ThreadedStream(method(*args, **kwargs))
        return functools.partial(asyncio.to_thread, method)

    async def __aenter__(self) -> _Threaded:
        await asyncio.to_thread(self._client.__enter__)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await asyncio.to_thread(self._client.__exit__, *error)


class _ThreadedStream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __aiter__(self) -> _ThreadedStream:
        return self

    async def __anext__(self) -> Any:
        end = object()
        message = await asyncio.to_thread(next, self._stream, end)
        if message is end:
            raise StopAsyncIteration
        return message

    async def __aenter__(self) -> _ThreadedStream:
        self._stream.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)

    def text(self) -> _ThreadedStream:
        return _ThreadedStream(self._stream.text())

    def cancel(self) -> None:
        self._stream.cancel()

    @property
    def response(self) -> v1.GenerateResponse | None:
        response: v1.GenerateResponse | None = self._stream.response
        return response


Connect: TypeAlias = Callable[..., penstock.aio.Client]


@pytest.fixture(params=["sync", "aio"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def connect(flavour: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    """Makes clients of the flavour under test, and closes them."""
    for variable in ("PENSTOCK_TARGET", "PENSTOCK_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    clients: list[penstock.aio.Client] = []

    def make(*args: Any, **kwargs: Any) -> penstock.aio.Client:
        if flavour == "aio":
            clients.append(penstock.aio.Client(*args, **kwargs))
        else:
            clients.append(cast(Any, _Threaded(penstock.Client(*args, **kwargs))))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def client(connect: Connect, server: Server) -> penstock.aio.Client:
    return connect(server.target, timeout=20)


class Finished(NamedTuple):
    """How a process ended."""

    code: int
    out: str
    err: str


Start: TypeAlias = Callable[..., Awaitable[asyncio.subprocess.Process]]
Run: TypeAlias = Callable[..., Awaitable[Finished]]


@pytest.fixture
async def start_python(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts Python processes of their own; what a test leaves running is killed."""
    started: list[asyncio.subprocess.Process] = []
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}

    async def start(*argv: str, **env: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *argv,
            cwd=tmp_path,
            env={**inherited, **env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def run_python(start_python: Start) -> Run:
    """Runs Python to its end."""

    async def run(*argv: str, stdin: str = "", **env: str) -> Finished:
        process = await start_python(*argv, **env)
        out, err = await process.communicate(stdin.encode())
        return Finished(process.returncode or 0, out.decode(), err.decode())

    return run
