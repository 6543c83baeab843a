"""Asks a whole engine, thread and event loop included, for the answers to wishes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock import v1
from penstock_hf.backend import HFBackend
from penstock_server.errors import Failure
from penstock_server.local.batching import BatchEngine
from penstock_server.local.command import ModelSpec
from penstock_server.local.job import Finish, Job

from tests.sidecars.stepping import Wish

PATIENCE = 60.0


@dataclass
class Told:
    """What a wish was answered: its tokens, its text and its end, or the failure."""

    job: Job
    text: str = ""
    finish: Finish | None = None
    failure: Failure | None = None
    logprobs: int = 0

    @property
    def tokens(self) -> list[int]:
        return self.job.tokens[len(self.job.prompt) :]

    @property
    def problem(self) -> str:
        """The failure's reason and message."""
        if self.failure is None:
            return "none"
        return f"{self.failure.reason_name}: {self.failure.message}"


@asynccontextmanager
async def running(
    directory: Path, max_waiting: int = 1_000, **settings: Any
) -> AsyncIterator[tuple[BatchEngine, HFBackend]]:
    """An engine that has loaded a model, on one thread of the CPU."""
    settings.setdefault("device", "cpu")
    settings.setdefault("threads", 1)
    backend = HFBackend(ModelSpec(str(directory), **settings))
    engine = BatchEngine(backend, "random", max_waiting=max_waiting)
    try:
        async with asyncio.timeout(PATIENCE):
            await engine.load(lambda progress, stage: None)
            yield engine, backend
    finally:
        await engine.close()


async def ask(engine: BatchEngine, wish: Wish, cancel_after: int | None = None) -> Told:
    """The whole answer, or so much of it as came before it was left."""
    told = Told(wish.job())
    try:
        async with aclosing(engine.generate(told.job)) as answer:
            async for chunk in answer:
                told.text += chunk.text
                told.logprobs += len(chunk.logprobs)
                told.finish = chunk.finish
                if cancel_after is not None and told.job.written >= cancel_after:
                    break
    except Failure as failure:
        told.failure = failure
    return told


async def quiet(engine: BatchEngine) -> v1.EngineStats:
    """The engine's figures once nobody is in it any more."""
    async with asyncio.timeout(PATIENCE):
        while True:
            stats = engine.stats()
            if not stats.running_requests and not stats.waiting_requests:
                return stats
            await asyncio.sleep(0.005)
