"""A server's life: bind, serve, stop in the right order. The same for gateway and sidecar.

Stopping: (1) health says NOT_SERVING, (2) calls are still taken for ``shutdown.notice``, so that
balancers notice, (3) new calls are refused with SHUTTING_DOWN while running ones go on for at most
``shutdown.drain``, (4) what still runs is ended with SHUTTING_DOWN, (5) connections close, and last
(6) providers, with their sidecars: a running call needs its provider to the end. A second signal
skips the waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from penstock import v1
from penstock.link.v1 import add_LinkServiceServicer_to_server

from penstock_server.assembly import Assembly
from penstock_server.config import ServerConfig
from penstock_server.health import SERVICES, HealthBoard
from penstock_server.identity import Door
from penstock_server.interceptor import Gate
from penstock_server.limits.rates import Ledger
from penstock_server.link import LinkService
from penstock_server.listener import BindError, Listener
from penstock_server.providers import Provider
from penstock_server.providers.link import LARGEST
from penstock_server.providers.link import SERVICE as LINK
from penstock_server.routing import Router
from penstock_server.service import EmbeddingService, GenerationService, ModelService
from penstock_server.telemetry import log
from penstock_server.tls import Certificates

if TYPE_CHECKING:
    from penstock_server.metrics import Exporter

CHANNELZ = "grpc.channelz.v1.Channelz"

# gRPC itself refuses larger messages without a word of ours. Up to this factor of the limit they
# are let in, to be refused with a reason.
_HEADROOM = 1.25

# Several small requests may come by a link as one message.
_LEAST_RECEIVED = 4 * LARGEST

_MOST_PENDING = 10_000

# What remains after draining gets this long to hand out its last statuses, in seconds.
_LAST_WORDS = 1.0


def server_options(config: ServerConfig) -> list[tuple[str, int]]:
    """The gRPC channel arguments for a configuration."""
    keepalive = config.keepalive
    options = [
        (
            "grpc.max_receive_message_length",
            max(int(config.limits.max_message_bytes * _HEADROOM), _LEAST_RECEIVED),
        ),
        ("grpc.max_send_message_length", -1),  # an answer that was computed is worth sending
        # Calls that nobody has looked at yet: beyond gRPC's default of 1,000 it cancels some of
        # them by chance, so that one caller's flood would fall on the others.
        ("grpc.server.max_pending_requests", _MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _MOST_PENDING),
        # Two servers on one port would each get some of the connections: a mistake, not a feature.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", int(keepalive.interval * 1000)),
        ("grpc.keepalive_timeout_ms", int(keepalive.timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # gRPC's default of 300 s ends a client that pings through a silent prefill
        # (too_many_pings).
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            int(keepalive.min_client_interval * 1000),
        ),
    ]
    for name, seconds in (
        ("grpc.max_connection_age_ms", keepalive.max_connection_age),
        ("grpc.max_connection_age_grace_ms", keepalive.max_connection_age_grace),
    ):
        if seconds:  # else gRPC's own default: for ever
            options.append((name, int(seconds * 1000)))
    return options


class Server:
    """One server with its providers.

    Everything runs on one event loop. `start` returns once calls are taken, which may be before
    any model is ready: health tells. ``linked`` is a sidecar's: gateways may link to it. ``door``
    knows callers; without one, everybody may call.

    Example::

        server = Server(config, [provider])
        await server.start()
        print(server.addresses)
        await server.stop()
    """

    def __init__(
        self,
        config: ServerConfig,
        providers: Sequence[Provider],
        aliases: Mapping[str, str] | None = None,
        linked: bool = False,
        routes: Sequence[Provider] = (),
        door: Door | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._providers = providers
        self._router = Router(providers, aliases, routes)
        self.health = HealthBoard(providers, also=[LINK] if linked else ())
        limits = config.limits
        self.gate = Gate(limits.max_message_bytes, config.log.prompts, door, limits.unread_timeout)
        self._leaving: set[asyncio.Task[None]] = set()
        self.addresses: list[str] = []
        self._generation = GenerationService(self._router)
        self._link = LinkService(self.gate, self._generation) if linked else None
        credentials = Certificates(config.tls).credentials() if config.tls.cert else None
        self._listener = Listener(self._make, credentials, int(config.socket_mode, 8))
        self._hurry = asyncio.Event()
        self._exporter = self._make_exporter() if config.metrics.listen else None

    def _make_exporter(self) -> Exporter:
        from penstock_server.metrics import Exporter  # a web server: for those who want it

        exporter = Exporter(self._router, self.gate, self.health)
        self.gate.observe = exporter.record
        return exporter

    async def start(self) -> None:
        """Bind, take calls, and start the providers."""
        await self._listener.start(self._config.listen)
        self.addresses = self._listener.addresses
        if self._exporter is not None:
            address = self._config.metrics.listen
            try:
                address = await self._exporter.start(address)
            except OSError as error:
                raise BindError(f"cannot listen on {address} for metrics: {error}") from None
            log(logging.INFO, "metrics", address=address)
        await self.health.open()
        await self._listener.serve()
        for provider in self._providers:
            await provider.start(self.health.listener(provider))

    async def replace(self, assembly: Assembly) -> None:
        """Have others answer from now on, and let others in.

        Who stays (the same object) is not touched. Who goes is closed once the calls have ended
        that run now.
        """
        old, new = self._providers, assembly.providers
        self.health.replace(new)
        self._providers = new
        for provider in _without(new, old):
            await provider.start(self.health.listener(provider))
        self._router.replace(new, assembly.aliases, assembly.routes)
        self.gate.door = assembly.door
        ledger, self._ledger = self._ledger, assembly.ledger
        gone = _without(old, new)
        leaving = asyncio.create_task(
            self._let_go(gone, None if ledger is self._ledger else ledger)
        )
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _let_go(self, providers: Sequence[Provider], ledger: Ledger | None) -> None:
        await self.gate.ended()
        await asyncio.gather(*(provider.close() for provider in providers))
        if ledger is not None:
            await ledger.close()

    def _make(self) -> grpc.aio.Server:
        """A gRPC server with all services."""
        made = grpc.aio.server(interceptors=[self.gate], options=server_options(self._config))
        v1.add_GenerationServiceServicer_to_server(self._generation, made)
        v1.add_ModelServiceServicer_to_server(ModelService(self._router), made)
        v1.add_EmbeddingServiceServicer_to_server(EmbeddingService(self._router), made)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, made)
        channelz.add_channelz_servicer(made)
        names = [*SERVICES, health.SERVICE_NAME, CHANNELZ, reflection.SERVICE_NAME]
        if self._link is not None:
            add_LinkServiceServicer_to_server(self._link, made)
            names.append(LINK)
        reflection.enable_server_reflection(names, made)
        return made

    def hurry(self) -> None:
        """Skip the waiting in `stop`."""
        self._hurry.set()

    async def stop(self) -> None:
        """Stop in the order that the module's docstring gives. Returns when all is closed."""
        await self.health.close()
        await self._patiently(asyncio.sleep(self._config.shutdown.notice))
        self.gate.refuse()
        log(logging.INFO, "draining", running=self.gate.running)
        await self._patiently(self.gate.drained(self._config.shutdown.drain))
        if self.gate.running:
            log(logging.WARNING, "ending calls that still run", running=self.gate.running)
            self.gate.end_running()
            await self.gate.drained(_LAST_WORDS)
        if self._link is not None:
            self._link.close()
        await self._listener.stop(_LAST_WORDS)
        await asyncio.gather(*self._leaving)
        await self._let_go(self._providers, self._ledger)
        if self._exporter is not None:
            await self._exporter.stop()
        for address in self.addresses:
            _unlink_socket(address)

    async def _patiently(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Wait for something, unless somebody is in a hurry."""
        tasks = [asyncio.ensure_future(waiting), asyncio.ensure_future(self._hurry.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _without(some: Iterable[Provider], others: Sequence[Provider]) -> list[Provider]:
    return [one for one in some if not any(one is other for other in others)]


def _unlink_socket(address: str) -> None:
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).unlink(missing_ok=True)
