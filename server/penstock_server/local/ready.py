"""A model in memory: its engine, its tokenizer, and the thread that tokenizes.

How it came there is ``model``'s to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from penstock import v1

from penstock_server.local import prompt
from penstock_server.local.engine import Engine, Loaded
from penstock_server.local.job import Job

Made = TypeVar("Made")


class Ready:
    """A model in memory: its engine, and what is known of it."""

    def __init__(self, name: str, engine: Engine, loaded: Loaded) -> None:
        self.engine = engine
        self.loaded = loaded
        # One thread: tokenizers are not for several at once, and a long prompt's seconds of
        # tokenising are not for the event loop.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"tokenizer-{name}")

    async def prepare(self) -> None:
        """Find out what the model can do; see `Abilities.prepare`."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._worker, self.loaded.abilities.prepare)

    async def make_job(
        self, request: v1.GenerateRequest, deadline: float | None = None, caller: str = ""
    ) -> Job:
        """See `prompt.make_job`."""
        return await self.tokenize(
            lambda loaded: prompt.make_job(request, loaded, deadline, caller)
        )

    async def tokenize(self, make: Callable[[Loaded], Made]) -> Made:
        """What is made of a request with the model's tokenizer, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, make, self.loaded)

    async def close(self) -> None:
        """Free everything."""
        await self.engine.close()
        self._worker.shutdown(wait=False, cancel_futures=True)
