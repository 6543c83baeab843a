"""Callers take turns, on the wire: through a gateway and a sidecar, real servers both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from penstock import v1
from penstock.errors import from_rpc_error
from penstock_server.config import ServerConfig
from penstock_server.local.batching import BatchEngine
from penstock_server.local.engine import Engine
from penstock_server.local.provider import LocalProvider
from penstock_server.local.recipe import Look
from penstock_server.providers.sidecar import SidecarProvider

from tests.sidecars.counting import PATIENCE, CountingBackend, MadeHere
from tests.support.processes import until
from tests.support.scripted import serving


class Served:
    """A gateway, a sidecar behind it, and the engine in there, which steps when a test allows."""

    def __init__(self, capacity: int, max_waiting: int, socket: Path) -> None:
        self.backend = CountingBackend(capacity=capacity)
        self.engine: BatchEngine | None = None
        self.local = LocalProvider("local", {"a": MadeHere(self._make)})
        self.far = SidecarProvider("far", [f"unix:{socket}"])
        self.address = ""
        self._max_waiting = max_waiting

    def _make(self, look: Look, cache_memory: int) -> Engine:
        self.engine = BatchEngine(self.backend, "a", max_waiting=self._max_waiting)
        return self.engine

    def waiting(self) -> int:
        return self.engine.stats().waiting_requests if self.engine else 0

    @asynccontextmanager
    async def client(self) -> AsyncIterator[v1.GenerationServiceAsyncStub]:
        """A client with a connection of its own: else a process's channels share one."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            yield v1.GenerationServiceStub(channel)


@asynccontextmanager
async def served(tmp_path: Path, capacity: int, max_waiting: int = 100) -> AsyncIterator[Served]:
    here = Served(capacity, max_waiting, tmp_path / "sidecar")
    config = ServerConfig.model_validate(
        {"listen": [f"unix:{tmp_path / 'sidecar'}"], "shutdown": {"notice": 0, "drain": 0}}
    )
    async with (
        asyncio.timeout(PATIENCE),
        serving(here.local, config=config),
        serving(here.far) as (server, _),
    ):
        here.address = server.addresses[0]
        yield here
        here.backend.allow_all()


async def ask(
    stub: v1.GenerationServiceAsyncStub, name: str = "", flavour: str = "unary"
) -> v1.GenerateResponse:
    request = v1.GenerateRequest(
        model="far/a", prompt="Hi", sampling=v1.Sampling(max_output_tokens=3)
    )
    metadata = (("x-penstock-caller", name),) if name else ()
    if flavour == "unary":
        return await stub.Generate(request, metadata=metadata, wait_for_ready=True)
    events = [
        event
        async for event in stub.StreamGenerate(
            v1.StreamGenerateRequest(request=request), metadata=metadata, wait_for_ready=True
        )
    ]
    return events[-1].completed


@pytest.mark.parametrize("flavour", ["unary", "stream"])
@pytest.mark.parametrize("capacity", [1, 4])
async def test_sixty_requests_of_one_client_hold_up_anothers_by_a_turn(
    tmp_path: Path, capacity: int, flavour: str
) -> None:
    async with (
        served(tmp_path, capacity) as here,
        here.client() as greedy,
        here.client() as modest,
    ):
        flood = [asyncio.create_task(ask(greedy, flavour=flavour))]
        await here.backend.waits()
        flood += [asyncio.create_task(ask(greedy, flavour=flavour)) for _ in range(59)]
        await until(lambda: here.waiting() == 59)
        single = asyncio.create_task(ask(modest, flavour=flavour))
        await until(lambda: here.waiting() == 60)
        here.backend.allow_all()
        assert (await single).usage.output_tokens == 3
        await asyncio.gather(*flood)
    callers = here.backend.began_for[1:]  # without the warm-up
    assert len(set(callers)) == 2
    [place] = [n for n, caller in enumerate(callers) if callers.count(caller) == 1]
    # Behind the one that ran, and before any other one joins.
    assert place == 1


async def test_services_behind_one_connection_take_turns_by_their_names(tmp_path: Path) -> None:
    async with served(tmp_path, 1) as here, here.client() as shared:
        flood = [asyncio.create_task(ask(shared, "indexing"))]
        await here.backend.waits()
        flood += [asyncio.create_task(ask(shared, "indexing")) for _ in range(19)]
        await until(lambda: here.waiting() == 19)
        single = asyncio.create_task(ask(shared, "search"))
        await until(lambda: here.waiting() == 20)
        here.backend.allow_all()
        await asyncio.gather(single, *flood)
    assert here.backend.began_for[1:4] == ["indexing", "search", "indexing"]


async def test_a_full_queue_makes_room_for_another_client(tmp_path: Path) -> None:
    async with (
        served(tmp_path, 1, max_waiting=8) as here,
        here.client() as greedy,
        here.client() as modest,
    ):
        flood = [asyncio.create_task(ask(greedy))]
        await here.backend.waits()
        flood += [asyncio.create_task(ask(greedy)) for _ in range(8)]
        await until(lambda: here.waiting() == 8)
        single = asyncio.create_task(ask(modest))
        [displaced], _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        error = displaced.exception()
        assert isinstance(error, grpc.aio.AioRpcError)
        told = from_rpc_error(error)
        assert (told.reason, told.metadata["model"]) == ("OVERLOADED", "far/a")
        assert told.retry_delay is not None
        here.backend.allow_all()
        assert (await single).usage.output_tokens == 3
        answered = [task for task in flood if task is not displaced]
        assert len(await asyncio.gather(*answered)) == 8
