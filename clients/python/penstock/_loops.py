"""What grpc.aio lets live no longer than an event loop: channels, and the calls on them.

``aio`` asks for the running loop's connection and gets the same one until that loop ends, or the
client is closed. Making calls does not belong here.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

import grpc
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from penstock import v1
from penstock._channel import HEALTH_CHECK, Settings


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


class Connection(NamedTuple):
    """An open channel: its stubs, and the streams that may still run on it."""

    generation: v1.GenerationServiceAsyncStub
    models: v1.ModelServiceAsyncStub
    embeddings: v1.EmbeddingServiceAsyncStub
    health: grpc.aio.UnaryUnaryMultiCallable[Message, HealthCheckResponse]
    streams: weakref.WeakSet[_Cancellable]
    keeper: AsyncGenerator[None, None]


class Connections:
    """A client's connections: one for each event loop that it is used in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[asyncio.AbstractEventLoop, Connection] = {}
        self.closed = False

    def get(self) -> Connection:
        """The running loop's connection. Raises RuntimeError where the client is closed."""
        if self.closed:
            raise RuntimeError("the client is closed")
        loop = asyncio.get_running_loop()
        connection = self._open.get(loop)
        if connection is None:
            for ended in [known for known in self._open if known.is_closed()]:
                del self._open[ended]  # its loop was closed without the courtesy of `_keep`
            connection = self._open[loop] = self._connect()
        return connection

    async def close(self) -> None:
        """Closes the running loop's connection, and refuses to open any more."""
        self.closed = True
        connection = self._open.get(asyncio.get_running_loop())
        if connection is not None:
            await connection.keeper.aclose()

    def _connect(self) -> Connection:
        to = self._settings
        if to.credentials is None:
            channel = grpc.aio.insecure_channel(to.target, to.options)
        else:
            channel = grpc.aio.secure_channel(to.target, to.credentials, to.options)
        health = channel.unary_unary(
            HEALTH_CHECK, HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
        )
        streams: weakref.WeakSet[_Cancellable] = weakref.WeakSet()
        keeper = self._keep(channel, streams)
        with contextlib.suppress(StopIteration):
            keeper.asend(None).send(None)  # up to its yield: from now on the event loop knows it
        return Connection(
            v1.GenerationServiceStub(channel),
            v1.ModelServiceStub(channel),
            v1.EmbeddingServiceStub(channel),
            health,
            streams,
            keeper,
        )

    async def _keep(
        self, channel: grpc.aio.Channel, streams: weakref.WeakSet[_Cancellable]
    ) -> AsyncGenerator[None, None]:
        """Closes the channel when it is closed itself: by the client, or by the event loop's end.

        That is why this is an async generator: `asyncio.run` closes those that are left when it
        ends. Calls that outlived their loop would still get events, and gRPC would complain in
        the next loop that theirs is closed.
        """
        try:
            yield
        finally:
            self._open.pop(asyncio.get_running_loop(), None)
            for stream in list(streams):
                stream.cancel()  # older gRPCs close without those that nobody awaits just now
            await channel.close()  # and cancel its calls; their last events are still to come
            # Where nothing else uses grpc.aio, all of it goes now, those events included. Else
            # let them pass: an event that comes at once comes after them.
            last = grpc.aio.insecure_channel("127.0.0.1:1")  # never connects
            await last.wait_for_state_change(grpc.ChannelConnectivity.SHUTDOWN)
            await last.close()
