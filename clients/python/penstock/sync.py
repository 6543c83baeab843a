"""The synchronous flavour: `Client` and the streams it returns. Input and output, nothing else.

``aio`` is its twin: same names, same signatures. What both share (requests, policy, errors) is
in ``_request``, ``_channel`` and ``errors``; conveniences above single calls belong elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from penstock import v1
from penstock._channel import (
    DEFAULT_MAX_RECEIVE_BYTES,
    HEALTH_CHECK,
    Metadata,
    Options,
    Settings,
    TLSOptions,
    settings,
)
from penstock._request import GenerateOptions, Prompt, embed_request, generate_request
from penstock.errors import PenstockError, from_rpc_error, incomplete_stream

_T = TypeVar("_T")
_RequestT = TypeVar("_RequestT")


class _Connection(NamedTuple):
    """An open channel and its stubs."""

    channel: grpc.Channel
    generation: v1.GenerationServiceStub
    models: v1.ModelServiceStub
    embeddings: v1.EmbeddingServiceStub
    health: grpc.UnaryUnaryMultiCallable[Message, HealthCheckResponse]


class ResponseStream(Generic[_T]):
    """The messages of a running call, in order, as they come; a context manager.

    Leaving its ``with`` block, or letting go of it, cancels what is left of the call, on the
    server too. Iterating raises PenstockError where the call fails; what came before stays valid.
    """

    def __init__(self, call: Iterator[_T], target: str) -> None:
        self._call: Any = call
        self._target = target

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        try:
            message: _T = next(self._call)
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self._target) from error
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        self._call.cancel()

    def cancel(self) -> None:
        """Ends the call, here and on the server; does nothing where it has ended already.

        Whoever still iterates gets CancelledCallError.
        """
        self._call.cancel()


class Stream(ResponseStream[v1.StreamGenerateResponse]):
    """An answer as the model writes it: an iterator of ``StreamGenerateResponse`` events.

    Example::

        with client.stream("Count to five.", model="local/tiny") as stream:
            for event in stream:
                print(event.part_delta.text, end="", flush=True)
        print(stream.response.usage)
    """

    response: v1.GenerateResponse | None = None
    """The whole answer; None until the stream has brought it."""

    def __next__(self) -> v1.StreamGenerateResponse:
        try:
            event = super().__next__()
        except StopIteration:
            if self.response is None:
                raise incomplete_stream() from None
            raise
        if event.HasField("completed"):
            self.response = event.completed
        return event

    def text(self) -> Iterator[str]:
        """Only the answer's text, piece by piece.

        Example::

            for piece in client.stream("Hi", model="local/tiny").text():
                print(piece, end="", flush=True)
        """
        for event in self:
            if event.part_delta.text:
                yield event.part_delta.text


class Client:
    """A Penstock server, synchronously. Safe to share between threads; make one and keep it.

    Args:
        target: "host:port", "grpcs://host:port" (TLS), "unix:/path", or any gRPC name such as
            "dns:///host:port". Default: $PENSTOCK_TARGET, else "127.0.0.1:50051".
        token: sent with every call as ``authorization: Bearer``; "" sends none. Default:
            $PENSTOCK_TOKEN. ValueError where it would leave this machine unencrypted.
        tls: True for TLS with gRPC's root certificates, TLSOptions for other ones; False for
            plaintext, which then may carry a token over a network. Default: by the target.
        timeout: seconds that a call may take unless it says otherwise. Default: no limit.
        metadata: gRPC metadata of every call.
        options: gRPC channel arguments; they go before the client's own.
        max_receive_bytes: the largest message to accept; -1 for no limit. Default: 64 MiB.

    Every call takes ``timeout`` (seconds for the whole call, streams included; ``math.inf`` for
    no limit) and ``metadata`` (it replaces the client's under the same keys), and raises
    PenstockError where it fails. The first call connects.

    Example::

        with penstock.Client() as client:
            print(penstock.text_of(client.generate("Hi", model="local/tiny")))
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
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"penstock.Client({self._settings.target!r})"

    def __enter__(self) -> Self:
        self._closed = False
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and cancels what still runs on it.

        Later calls raise RuntimeError, until a ``with`` block opens the client again.
        """
        with self._lock:
            connection, self._connection, self._closed = self._connection, None, True
        if connection is not None:
            connection.channel.close()

    def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **options: Unpack[GenerateOptions],
    ) -> v1.GenerateResponse:
        """Asks a model and waits for its whole answer.

        Args:
            prompt: text, a message, a conversation (oldest first), or a ``GenerateRequest``.
            model: "provider/model", such as "local/tiny".
            timeout: seconds for the whole call. Default: the client's.
            metadata: gRPC metadata of this call.
            **options: system, tools, tool_choice, response_format, max_output_tokens,
                temperature, seed, stop, thinking, …: see `GenerateOptions`.

        Example::

            client.generate("Name a river.", model="local/tiny", temperature=0)
        """
        request = generate_request(prompt, model=model, **options)
        return self._unary(self._connect().generation.Generate, request, timeout, metadata)

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

        Breaking out of a loop over the stream cancels the call, as long as nobody else holds
        the stream; hold it by ``with`` to be sure.

        Example::

            for event in client.stream("Name a river.", model="local/tiny"):
                print(event.part_delta.text, end="", flush=True)
        """
        question = generate_request(prompt, model=model, **options)
        request = v1.StreamGenerateRequest(request=question)
        call = self._connect().generation.StreamGenerate
        arguments = self._settings.call(timeout, metadata)
        return Stream(call(request, **arguments), self._settings.target)

    def embed(
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

            client.embed(["river", "lake"], model="local/tiny").embeddings[0].values
        """
        request = embed_request(
            inputs, model=model, dimensions=dimensions, provider_options=provider_options
        )
        return self._unary(self._connect().embeddings.Embed, request, timeout, metadata)

    def list_models(
        self,
        provider: str = "",
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> v1.ListModelsResponse:
        """Lists the models of every provider, or of one.

        Providers that could not say are in ``failures``, beside the models of the others.

        Example::

            [model.name for model in client.list_models().models]
        """
        request = v1.ListModelsRequest(provider=provider)
        return self._unary(self._connect().models.ListModels, request, timeout, metadata)

    def get_model(
        self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> v1.Model:
        """Describes a model: what it can do, its limits, whether it is in memory.

        Example::

            v1.CAPABILITY_TOOLS in client.get_model("local/tiny").capabilities
        """
        request = v1.GetModelRequest(model=model)
        return self._unary(self._connect().models.GetModel, request, timeout, metadata).model

    def load_model(
        self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ResponseStream[v1.LoadModelResponse]:
        """Brings a local model into memory; the stream tells how far, and ends once it is there.

        Example::

            for step in client.load_model("local/tiny"):
                print(f"{step.progress:.0%} {step.stage}")
        """
        call = self._connect().models.LoadModel
        arguments = self._settings.call(timeout, metadata)
        request = v1.LoadModelRequest(model=model)
        return ResponseStream(call(request, **arguments), self._settings.target)

    def unload_model(
        self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> v1.Model:
        """Frees a local model's memory, once its running answers are finished.

        Example::

            client.unload_model("local/tiny").state == v1.MODEL_STATE_UNLOADED
        """
        request = v1.UnloadModelRequest(model=model)
        return self._unary(self._connect().models.UnloadModel, request, timeout, metadata).model

    def pull_model(
        self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ResponseStream[v1.PullModelResponse]:
        """Has the provider fetch a model; the stream tells how far, and ends once it is there.

        Example::

            for step in client.pull_model("ollama/qwen3:0.6b"):
                print(step.stage, step.completed_bytes, step.total_bytes)
        """
        call = self._connect().models.PullModel
        arguments = self._settings.call(timeout, metadata)
        request = v1.PullModelRequest(model=model)
        return ResponseStream(call(request, **arguments), self._settings.target)

    def health(
        self, service: str = "", *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> str:
        """Whether the server, or one of its services, takes calls.

        "SERVING", "NOT_SERVING", "UNKNOWN", or "SERVICE_UNKNOWN" for a service it has not.

        Example::

            client.health("penstock.v1.GenerationService") == "SERVING"
        """
        request = HealthCheckRequest(service=service)
        try:
            answer = self._unary(self._connect().health, request, timeout, metadata)
        except PenstockError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))

    def _connect(self) -> _Connection:
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if self._connection is None:
                self._connection = _open(self._settings)
            return self._connection

    def _unary(
        self,
        method: grpc.UnaryUnaryMultiCallable[_RequestT, _T],
        request: _RequestT,
        timeout: float | None,
        metadata: Metadata | None,
    ) -> _T:
        try:
            return method(request, **self._settings.call(timeout, metadata))
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self._settings.target) from error


def _open(to: Settings) -> _Connection:
    if to.credentials is None:
        channel = grpc.insecure_channel(to.target, to.options)
    else:
        channel = grpc.secure_channel(to.target, to.credentials, to.options)
    health = channel.unary_unary(
        HEALTH_CHECK, HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    return _Connection(
        channel,
        v1.GenerationServiceStub(channel),
        v1.ModelServiceStub(channel),
        v1.EmbeddingServiceStub(channel),
        health,
    )
