"""grpc.health.v1, moved by what is true.

The names one can ask for: "" (the whole server), each service's full name, and
"provider/NAME" for each provider. The server, and its GenerationService, serve while at least one
provider can answer; ModelService whenever the server takes calls; EmbeddingService while a
provider that embeds can answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from penstock_server.providers import HealthListener, Provider

GENERATION = "penstock.v1.GenerationService"
MODELS = "penstock.v1.ModelService"
EMBEDDING = "penstock.v1.EmbeddingService"
SERVICES = (GENERATION, MODELS, EMBEDDING)

_STATUS = {
    None: health_pb2.HealthCheckResponse.UNKNOWN,
    True: health_pb2.HealthCheckResponse.SERVING,
    False: health_pb2.HealthCheckResponse.NOT_SERVING,
}

_NOT_THERE = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthBoard:
    """Keeps the health of everything that has one.

    A provider's health is UNKNOWN until the provider tells it for the first time. Services in
    ``also`` serve whenever the server takes calls. All methods belong on the event loop.
    """

    def __init__(self, providers: Sequence[Provider], also: Sequence[str] = ()) -> None:
        self.servicer = health_aio.HealthServicer()
        self._also = also
        self._providers = {provider.name: provider for provider in providers}
        self._healthy: dict[str, bool | None] = dict.fromkeys(self._providers)
        self._embeds: dict[str, bool] = {}
        self._gone: set[str] = set()  # providers that were there once
        self._changed = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references

    async def open(self) -> None:
        """Publish the first truth: the server takes calls; providers say themselves."""
        await self._publish()

    def listener(self, provider: Provider) -> HealthListener:
        """What a provider tells its health to; in vain, once another has taken its place."""
        name = provider.name

        def on_health(healthy: bool) -> None:
            if self._providers.get(name) is not provider:
                return
            now = (healthy, healthy and provider.embeds)
            if now != (self._healthy[name], self._embeds.get(name, False)):
                self._healthy[name], self._embeds[name] = now
                self._publish_soon()

        return on_health

    def replace(self, providers: Sequence[Provider]) -> None:
        """Keep these providers' health from now on; who stays, stays as healthy as it was."""
        old, new = self._providers, {provider.name: provider for provider in providers}
        kept = {name for name, provider in new.items() if old.get(name) is provider}
        self._providers = new
        self._healthy = {name: self._healthy[name] if name in kept else None for name in new}
        self._embeds = {name: has for name, has in self._embeds.items() if name in kept}
        self._gone |= old.keys()
        self._gone -= new.keys()
        self._publish_soon()

    def _publish_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._publish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Wait until every provider has told its health, and some can answer.

        At once where there are no providers.
        """
        while self._healthy and (None in self._healthy.values() or not any(self._healthy.values())):
            self._changed.clear()
            await self._changed.wait()

    def healthy(self) -> Iterable[str]:
        """The names of the providers that can answer."""
        return [name for name, healthy in self._healthy.items() if healthy]

    async def close(self) -> None:
        """NOT_SERVING everywhere, for good: the server is stopping."""
        await self.servicer.enter_graceful_shutdown()

    async def _publish(self) -> None:
        self._changed.set()
        async with self._publishing:  # else an older truth could overtake a newer one
            some = any(self._healthy.values())
            truth: dict[str, bool | None] = {
                "": some,
                GENERATION: some,
                MODELS: True,
                EMBEDDING: any(self._embeds.values()),
            }
            truth |= dict.fromkeys(self._also, True)
            truth |= {f"provider/{name}": healthy for name, healthy in self._healthy.items()}
            for name, serving in truth.items():
                await self.servicer.set(name, _STATUS[serving])
            for name in self._gone:
                await self.servicer.set(f"provider/{name}", _NOT_THERE)
