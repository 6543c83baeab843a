"""Sidecars that own the same models: which of them are there, and which one is next.

One `Member` for each address. gRPC's own health watching says who serves; the next call goes to
the member with the fewest calls under way, or to the one that has computed what it begins with.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock import v1
from penstock.link.v1 import LinkServiceStub

from penstock_server.providers.affinity import Affinity
from penstock_server.providers.link import LARGEST, Link
from penstock_server.tls import ChannelCertificates

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING

_UNANSWERED = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)

# Between two attempts at watching a member that is not there, in seconds.
_WATCH_PAUSE = 0.1
_LONGEST_WATCH_PAUSE = 2.0

# How long calls may go on by a channel that another one has followed, in seconds.
_LAST_CALLS = 3600.0

_NO_CONNECTION = "failed to connect to all addresses"

# What gRPC says of a handshake that failed → what that means here.
_HANDSHAKES: Mapping[str, str] = {
    "certificate has expired": "its certificate has expired",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is by nobody that tls.ca vouches for",
    "Hostname Verification Check failed": "its certificate is for another name than its address "
    "(or tls.server_name)",
    "WRONG_VERSION_NUMBER": "it speaks no TLS",
}
_HUNG_UP: Mapping[bool | None, str] = {
    True: "it ends the connection, perhaps because it does not accept the certificate in tls.cert",
    False: "it ends the connection, perhaps because it asks for a certificate (tls.cert)",
    None: "it ends the connection, perhaps because it speaks TLS (tls)",
}
"""By whether we showed a certificate; None: no TLS."""

CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", -1),  # the limit is kept at the gateway's own door
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),  # a sidecar that hangs or is cut off is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A sidecar that was restarted is to be found again at once, not after minutes of backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),  # sidecars are ours, not the internet's
)


class Watched(NamedTuple):
    """The names under which a member's health is watched: of its provider, and of two services."""

    provider: str
    embedding: str
    link: str


class Member:
    """One sidecar: its channel, its stubs, and what is known of it."""

    def __init__(
        self,
        address: str,
        watched: Watched,
        on_change: Callable[[], None],
        tls: ChannelCertificates | None = None,
    ) -> None:
        self.address = address
        self.outstanding = 0
        self.trouble = ""
        """Why it could not be reached, as far as that is known."""
        self._tls = None if address.startswith("unix:") else tls
        self._on_change = on_change
        self._watched = watched
        self._health: dict[str, int | None] = dict.fromkeys(watched)
        self._former: dict[grpc.aio.Channel, asyncio.Task[None]] = {}
        self._connect()
        self._watching = [asyncio.create_task(self._watch(name)) for name in self._health]

    def _connect(self) -> None:
        options: list[tuple[str, int | str]] = list(CHANNEL_OPTIONS)
        self._credentials = None if self._tls is None else self._tls.latest()
        if self._tls is None or self._credentials is None:
            channel = grpc.aio.insecure_channel(self.address, options=options)
        else:
            options += self._tls.options
            channel = grpc.aio.secure_channel(self.address, self._credentials, options=options)
        self._channel = channel
        self._generation = v1.GenerationServiceStub(channel)
        self._link = Link(LinkServiceStub(channel))
        self.models = v1.ModelServiceStub(channel)
        self.embeddings = v1.EmbeddingServiceStub(channel)
        self._health_stub = health_pb2_grpc.HealthStub(channel)

    def _renew(self) -> None:
        """A new channel, where the certificates have changed: a channel has its own for good."""
        if self._tls is None or self._tls.latest() is self._credentials:
            return
        former = self._channel
        self._connect()
        self._former[former] = closing = asyncio.create_task(former.close(_LAST_CALLS))
        closing.add_done_callback(lambda _: self._former.pop(former, None))

    @property
    def linked(self) -> bool:
        """It takes calls by a link."""
        return self._health[self._watched.link] == _SERVING

    def generation(self, request: Message) -> v1.GenerationServiceAsyncStub | Link:
        """What a request is to be sent by: the link, where there is one and it is not too large."""
        linked = self.linked and request.ByteSize() <= LARGEST
        return self._link if linked else self._generation

    @property
    def connected(self) -> bool:
        """It answers, though its models may not be ready."""
        return self._health[self._watched.provider] is not None

    @property
    def serving(self) -> bool:
        """It can answer now."""
        return self._health[self._watched.provider] == _SERVING

    @property
    def failed(self) -> bool:
        """It is there and says that it cannot answer (and not that it is starting)."""
        return self._health[self._watched.provider] == _NOT_SERVING

    @property
    def embeds(self) -> bool:
        """It can embed now."""
        return self._health[self._watched.embedding] == _SERVING

    def lost(self) -> None:
        """It did not answer a call: not to be asked until its health is seen again."""
        self._is(self._watched.provider, None)

    async def answers(self, patience: float) -> bool:
        """Whether it answers a question within so many seconds, whatever it says."""
        try:
            await self._health_stub.Check(health_pb2.HealthCheckRequest(), timeout=patience)
        except grpc.aio.AioRpcError as error:
            return error.code() not in _UNANSWERED
        return True

    async def close(self) -> None:
        """Let go of the connection."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await self._link.close()
        former = list(self._former.items())
        for channel, closing in former:
            closing.cancel()
            await channel.close()
        await self._channel.close()

    async def _watch(self, service: str) -> None:
        request = health_pb2.HealthCheckRequest(service=service)
        pause = _WATCH_PAUSE
        while True:
            try:
                async for answer in self._health_stub.Watch(request):
                    self.trouble = ""
                    self._is(service, answer.status)
                    pause = _WATCH_PAUSE
            except grpc.aio.AioRpcError as error:
                self.trouble = _trouble(error, self._tls)
            self._is(service, None)
            self._renew()
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(pause * 1.5, _LONGEST_WATCH_PAUSE)

    def _is(self, service: str, status: int | None) -> None:
        self._health[service] = status
        self._on_change()


def _trouble(error: grpc.aio.AioRpcError, tls: ChannelCertificates | None) -> str:
    """What a connection failed of, as far as is known; "" where nobody seems to be there."""
    said = error.details() or ""
    if not said.startswith(_NO_CONNECTION):
        return ""
    if "Socket closed" in said or "Connection reset" in said:
        # TLS 1.3: a client that is refused for its certificate sees no more than this.
        return _HUNG_UP[None if tls is None else tls.shown]
    return next((words for sign, words in _HANDSHAKES.items() if sign in said), "")


class Pool:
    """The members, and whose turn it is.

    Everything belongs to one event loop. ``affine``: calls that begin alike go the same way.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        watched: Watched,
        on_change: Callable[[], None],
        tls: ChannelCertificates | None = None,
        affine: bool = False,
    ) -> None:
        self._affinity: Affinity[Member] | None = None
        if affine and len(addresses) > 1:
            self._affinity = Affinity(name=lambda member: member.address)
        self._changed = asyncio.Event()
        self._listener = on_change
        self.members = [Member(a, watched, self._change, tls) for a in addresses]

    @property
    def serving(self) -> bool:
        """Whether some member can answer."""
        return any(member.serving for member in self.members)

    @property
    def affine(self) -> bool:
        """Whether it matters how a prompt begins."""
        return self._affinity is not None

    def pick(self, excluded: Sequence[Member] = (), key: bytes | None = None) -> Member | None:
        """The serving member with the fewest calls under way, or who is best for a beginning.

        Where none serves, one that is there at all: it knows best why it does not, and whether
        waiting helps. None where nobody is there.
        """
        candidates = [m for m in self.members if m.connected and m not in excluded]
        serving = [m for m in candidates if m.serving]
        if self._affinity is not None and key is not None and serving:
            return self._affinity.order(key, serving)[0]
        return min(serving or candidates, key=lambda m: m.outstanding, default=None)

    async def close(self) -> None:
        """Let go of all members."""
        await asyncio.gather(*(member.close() for member in self.members))

    async def change(self) -> None:
        """Wait for a member to come, go, or change."""
        await self._changed.wait()

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._listener()
