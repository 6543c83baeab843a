"""The asynchronous flavour: `Client` and the streams it returns. Input and output, nothing else.

``sync`` is its twin: same names, same signatures, and the longer explanations. What both share
(requests, policy, errors) is in ``_request``, ``_channel`` and ``errors``.

The cancellation of a task stays ``asyncio.CancelledError``, and cancels its call on the server; a
call that was cancelled on its own (`ResponseStream.cancel`, `Client.close`) raises
``CancelledCallError``, though gRPC would raise CancelledError for both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from typing import Any, Generic, Self, TypeVar, Unpack

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from penstock import v1
from penstock._channel import (
    DEFAULT_MAX_RECEIVE_BYTES,
    Metadata,
    Options,
    TLSOptions,
    settings,
)
from penstock._loops import Connections
from penstock._request import GenerateOptions, Prompt, embed_request, generate_request
from penstock.errors import PenstockError, cancelled_call, from_rpc_error, incomplete_stream

_T = TypeVar("_T")
_RequestT = TypeVar("_RequestT")


class ResponseStream(Generic[_T]):
    """The messages of a running call, in order, as they come; an async context manager.

    Leaving its ``async with`` block, or letting go of it, cancels what is left of the call, on
    the server too. Iterating raises PenstockError where the call fails; what came before stays
    valid.
    """

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, _T], target: str) -> None:
        self._call = call
        self._target = target

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        # Not by the call's own iterator, an async generator: one that is left half-way needs the
        # event loop again to be closed, and may outlive it.
        message: Any = await _result(self._call.read(), self._target)
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        received: _T = message
        return received

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        self._call.cancel()  # at once: gRPC's call sits in a cycle, and waits for the collector

    def cancel(self) -> None:
        """Ends the call, here and on the server; does nothing where it has ended already.

        Whoever still iterates gets CancelledCallError.
        """
        self._call.cancel()


class Stream(ResponseStream[v1.StreamGenerateResponse]):
    """An answer as the model writes it: an iterator of ``StreamGenerateResponse`` events.

    Example::

        async with client.stream("Count to five.", model="local/tiny") as stream:
            async for event in stream:
                print(event.part_delta.text, end="", flush=True)
        print(stream.response.usage)
    """

    response: v1.GenerateResponse | None = None
    """The whole answer; None until the stream has brought it."""

    async def __anext__(self) -> v1.StreamGenerateResponse:
        try:
            event = await super().__anext__()
        except StopAsyncIteration:
            if self.response is None:
                raise incomplete_stream() from None
            raise
        if event.HasField("completed"):
            self.response = event.completed
        return event

    def text(self) -> AsyncIterator[str]:
        """Only the answer's text, piece by piece.

        Example::

            async for piece in client.stream("Hi", model="local/tiny").text():
                print(piece, end="", flush=True)
        """
        return _Text(self)


class _Text:
    """The text of a stream; a class for the reason given in `ResponseStream.__anext__`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        async for event in self._stream:
            if event.part_delta.text:
                return event.part_delta.text
        raise StopAsyncIteration


class Client:
    """A Penstock server, asynchronously. Make one and keep it.

    The arguments are those of `penstock.Client`. No event loop need run yet when it is made, and
    it may be used by one loop after the other: it connects anew in each.

    Every call takes ``timeout`` (seconds for the whole call, streams included; ``math.inf`` for
    no limit) and ``metadata`` (it replaces the client's under the same keys), and raises
    PenstockError where it fails. The first call connects.

    Example::

        async with penstock.aio.Client() as client:
            print(penstock.text_of(await client.generate("Hi", model="local/tiny")))
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        token: str | None = None,
        tls: bool | TLSOptions | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        options: Options | None = None,
        max_receive_bytes: int = DEFAULT_MAX_RECEIVE_BYTES,
    ) -> None:
        self._settings = settings(
            target,
            token=token,
            tls=tls,
            timeout=timeout,
            metadata=metadata,
            options=options,
            max_receive_bytes=max_receive_bytes,
        )
        self._connections = Connections(self._settings)

    def __repr__(self) -> str:
        return f"penstock.aio.Client({self._settings.target!r})"

    async def __aenter__(self) -> Self:
        self._connections.closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and cancels what still runs on it.

        Later calls raise RuntimeError, until an ``async with`` block opens the client again.
        """
        await self._connections.close()

    async def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **options: Unpack[GenerateOptions],
    ) -> v1.GenerateResponse:
        """Asks a model and waits for its whole answer; see `penstock.Client.generate`.

        Example::

            await client.generate("Name a river.", model="local/tiny", temperature=0)
        """
        request = generate_request(prompt, model=model, **options)
        return await self._unary(
            self._connections.get().generation.Generate, request, timeout, metadata
        )

    def stream(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Stream:
        """Asks a model, as `generate`, and returns its answer as a `Stream` of events.

        Not awaited. Breaking out of a loop over the stream cancels the call, as long as nobody
        else holds the stream; hold it by ``async with`` to be sure.

        Example::

            async for event in client.stream("Name a river.", model="local/tiny"):
                print(event.part_delta.text, end="", flush=True)
        """
        question = generate_request(prompt, model=model, **options)
        request = v1.StreamGenerateRequest(request=question)
        connection = self._connections.get()
        arguments = self._settings.call(timeout, metadata)
        call = connection.generation.StreamGenerate(request, **arguments)
        stream = Stream(call, self._settings.target)
        connection.streams.add(stream)
        return stream

    async def embed(
        self,
        inputs: str | Iterable[str],
        *,
        model: str,
        dimensions: int | None = None,
        provider_options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> v1.EmbedResponse:
        """Turns texts (or one text) into vectors, in the same order.

        ``dimensions`` is the vectors' length, where the model lets one choose;
        ``provider_options`` go to the provider's own API as they are.

        Example::

            (await client.embed(["river", "lake"], model="local/tiny")).embeddings[0].values
        """
        request = embed_request(
            inputs, model=model, dimensions=dimensions, provider_options=provider_options
        )
        return await self._unary(
            self._connections.get().embeddings.Embed, request, timeout, metadata
        )

    async def list_models(
        self,
        provider: str = "",
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> v1.ListModelsResponse:
        """Lists the models of every provider, or of one.

        Providers that could not say are in ``failures``, beside the models of the others.

        Example::

            [model.name for model in (await client.list_models()).models]
        """
        request = v1.ListModelsRequest(provider=provider)
        return await self._unary(
            self._connections.get().models.ListModels, request, timeout, metadata
        )

    async def get_model(
        self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> v1.Model:
        """Describes a model: what it can do, its limits, whether it is in memory.

        Example::

            v1.CAPABILITY_TOOLS in (await client.get_model("local/tiny")).capabilities
        """
        request = v1.GetModelRequest(model=model)
        call = self._connections.get().models.GetModel
        return (await self._unary(call, request, timeout, metadata)).model

    def load_model(
        self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ResponseStream[v1.LoadModelResponse]:
        """Brings a local model into memory; the stream tells how far, and ends once it is there.

        Example::

            async for step in client.load_model("local/tiny"):
                print(f"{step.progress:.0%} {step.stage}")
        """
        request = v1.LoadModelRequest(model=model)
        connection = self._connections.get()
        arguments = self._settings.call(timeout, metadata)
        call = connection.models.LoadModel(request, **arguments)
        stream = ResponseStream(call, self._settings.target)
        connection.streams.add(stream)
        return stream

    async def unload_model(
        self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> v1.Model:
        """Frees a local model's memory, once its running answers are finished.

        Example::

            (await client.unload_model("local/tiny")).state == v1.MODEL_STATE_UNLOADED
        """
        request = v1.UnloadModelRequest(model=model)
        call = self._connections.get().models.UnloadModel
        return (await self._unary(call, request, timeout, metadata)).model

    def pull_model(
        self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ResponseStream[v1.PullModelResponse]:
        """Has the provider fetch a model; the stream tells how far, and ends once it is there.

        Example::

            async for step in client.pull_model("ollama/qwen3:0.6b"):
                print(step.stage, step.completed_bytes, step.total_bytes)
        """
        request = v1.PullModelRequest(model=model)
        connection = self._connections.get()
        arguments = self._settings.call(timeout, metadata)
        stream = ResponseStream(
            connection.models.PullModel(request, **arguments), self._settings.target
        )
        connection.streams.add(stream)
        return stream

    async def health(
        self, service: str = "", *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> str:
        """Whether the server, or one of its services, takes calls.

        "SERVING", "NOT_SERVING", "UNKNOWN", or "SERVICE_UNKNOWN" for a service it has not.

        Example::

            await client.health("penstock.v1.GenerationService") == "SERVING"
        """
        request = HealthCheckRequest(service=service)
        try:
            answer = await self._unary(self._connections.get().health, request, timeout, metadata)
        except PenstockError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))

    async def _unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_RequestT, _T],
        request: _RequestT,
        timeout: float | None,
        metadata: Metadata | None,
    ) -> _T:
        call = method(request, **self._settings.call(timeout, metadata))
        return await _result(call, self._settings.target)


async def _result(awaitable: Awaitable[_T], target: str) -> _T:
    try:
        return await awaitable
    except grpc.RpcError as error:
        raise from_rpc_error(error, target=target) from error
    except asyncio.CancelledError as error:
        if _is_being_cancelled():
            raise
        raise cancelled_call() from error


def _is_being_cancelled() -> bool:
    """Whether a CancelledError means the running task, and not just a call of it."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
