"""One model of a sidecar and what becomes of it: unloaded, loading, ready, failed.

What is asked of the model is ``provider``'s to know, how it computes the engine's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local import prompt
from penstock_server.local.engine import Engine, Loaded
from penstock_server.local.job import Job
from penstock_server.telemetry import log, logger

EngineFactory = Callable[[], Engine]
"""Makes a model's engine, on the event loop; the engine loads the model afterwards."""


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

    async def make_job(self, request: v1.GenerateRequest, deadline: float | None = None) -> Job:
        """See `prompt.make_job`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._worker, prompt.make_job, request, self.loaded, deadline
        )

    async def close(self) -> None:
        """Free everything."""
        await self.engine.close()
        self._worker.shutdown(wait=False, cancel_futures=True)


class LocalModel:
    """A model that can be loaded, used and unloaded.

    Everything happens on the event loop. Loading and unloading are tasks of their own, one at a
    time: whoever waits for one may leave without stopping it, and several may wait for the same.

    ``name`` is the provider's own name for it; ``on_change`` is called whenever `state`,
    `progress` or `message` has changed.
    """

    def __init__(
        self, name: str, make_engine: EngineFactory, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self.state: v1.ModelState.ValueType = v1.MODEL_STATE_UNLOADED
        self.progress = 0.0
        self.message = ""
        """The stage of loading, or why loading failed."""
        self._make_engine = make_engine
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._engine: Engine | None = None  # also while it is loading
        self._ready: Ready | None = None
        self._failure: Failure | None = None
        self._transition: asyncio.Task[None] | None = None
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._closed = False

    @property
    def loaded(self) -> Loaded | None:
        """What is known of the model; None while it is not in memory."""
        return self._ready.loaded if self._ready else None

    def stats(self) -> v1.EngineStats | None:
        """The engine's live figures; None while the model is not in memory."""
        return self._ready.engine.stats() if self._ready else None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Ready]:
        """The model in memory, loaded now where it is not; it stays for as long as it is used.

        A load that failed is not tried again: calls would queue up behind one after the other.
        `load` tries.
        """
        while self._ready is None or self._transition is not None or self._closed:
            if self._closed:
                raise _stopping()
            if self._failure is not None:
                raise self._failure.again()
            await asyncio.shield(self._transition or self._begin(self._load()))
        self._users += 1
        self._unused.clear()
        try:
            yield self._ready
        finally:
            self._users -= 1
            if self._users == 0:
                self._unused.set()

    async def load(self) -> AsyncGenerator[None, None]:
        """Load the model where it is not in memory; yields at each change, until it is."""
        if self._transition is None:
            self._failure = None
        while self._ready is None or self._transition is not None:
            if self._failure is not None:
                raise self._failure.again()
            changed = self._changed
            if self._transition is None:
                self._begin(self._load())
            yield
            await changed.wait()
        yield

    async def unload(self) -> None:
        """Free the memory, once running answers are finished; calls that come then wait."""
        while self._transition is not None:
            await asyncio.shield(self._transition)
        if self._ready is not None:
            await asyncio.shield(self._begin(self._unload(self._ready)))
        elif self._failure is not None:
            self._failure = None
            self._set(v1.MODEL_STATE_UNLOADED)

    async def close(self) -> None:
        """Free everything at once; running answers fail."""
        self._closed = True
        if self._engine is not None:
            await self._engine.close()
        if self._transition is not None:
            await asyncio.shield(self._transition)
        if self._ready is not None:
            await self._ready.close()

    def _begin(self, transition: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def run() -> None:
            try:
                await transition
            finally:
                self._transition = None
                self._announce()

        self._transition = asyncio.create_task(run(), name=f"model {self.name}")
        return self._transition

    async def _load(self) -> None:
        self._set(v1.MODEL_STATE_LOADING, "starting")
        try:
            if self._closed:
                raise _stopping()
            self._engine = self._make_engine()
            loaded = await self._engine.load(self._report)
            ready = Ready(self.name, self._engine, loaded)
            await ready.prepare()
        except Exception as error:
            failure = self._failure = error if isinstance(error, Failure) else _fault(error)
            self._engine = None
            self._set(v1.MODEL_STATE_FAILED, failure.message)
            if not self._closed:
                log(logging.ERROR, "model cannot be loaded", model=self.name, why=failure.message)
        else:
            self._ready = ready
            self._set(v1.MODEL_STATE_READY, _remark(loaded))
            log(
                logging.INFO,
                "model ready",
                model=self.name,
                device=loaded.device,
                dtype=loaded.dtype,
                context_length=loaded.context_length,
            )

    async def _unload(self, ready: Ready) -> None:
        if self._users:
            self._set(self.state, f"unloading once {self._users} running answers are finished")
            await self._unused.wait()
        await ready.close()
        self._ready = self._engine = None
        self._set(v1.MODEL_STATE_UNLOADED)
        log(logging.INFO, "model unloaded", model=self.name)

    def _report(self, progress: float, stage: str) -> None:
        self._set(v1.MODEL_STATE_LOADING, stage, progress)

    def _set(
        self, state: v1.ModelState.ValueType, message: str = "", progress: float = 0.0
    ) -> None:
        self.state, self.message, self.progress = state, message, progress
        self._announce()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._on_change()


def _remark(loaded: Loaded) -> str:
    """What is worth knowing of a model that can answer."""
    why = loaded.one_at_a_time
    return f"answers one request at a time: {why}" if why else ""


def _fault(error: Exception) -> Failure:
    logger.error("a fault of Penstock's own, in loading a model", exc_info=error)
    return Failure(
        v1.ERROR_REASON_INTERNAL_ERROR,
        "Penstock failed at loading this model; the server's log has the details",
    )


def _stopping() -> Failure:
    return Failure(v1.ERROR_REASON_SHUTTING_DOWN, "the server is stopping")
