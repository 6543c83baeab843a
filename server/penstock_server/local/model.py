"""One model of a sidecar and what becomes of it: unloaded, loading, ready, failed.

What is asked of the model is ``provider``'s to know, how it computes the engine's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local.budget import Budget
from penstock_server.local.engine import Engine, Loaded
from penstock_server.local.ready import Ready
from penstock_server.local.recipe import Look, Recipe
from penstock_server.telemetry import log, logger


class LocalModel:
    """A model that can be loaded, used and unloaded.

    Everything happens on the event loop. Loading and unloading are tasks of their own, one at a
    time: whoever waits for one may leave without stopping it, and several may wait for the same.

    Where its memory comes from is the ``budget``'s: a model claims it before it is loaded, and may
    be asked to make way for another one when nobody uses it. ``keep_alive`` is after how many
    idle seconds it goes by itself (None: never); the next call has it loaded again.

    ``name`` is the provider's own name for it; ``on_change`` is called whenever `state`,
    `progress`, `message` or `embeds` has changed.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        on_change: Callable[[], None],
        budget: Budget,
        keep_alive: float | None = None,
    ) -> None:
        self.name = name
        self.state: v1.ModelState.ValueType = v1.MODEL_STATE_UNLOADED
        self.progress = 0.0
        self.message = ""
        """The stage of loading, or why loading failed."""
        self.embeds: bool | None = None
        """Whether it turns text into vectors; None while that is not known."""
        self.refused = False
        """It could not be loaded at the last try, since others had the memory."""
        self.used_at = time.monotonic()
        self._recipe = recipe
        self._on_change = on_change
        self._budget = budget
        self._keep_alive = keep_alive
        self._changed = asyncio.Event()
        self._engine: Engine | None = None  # also while it is loading
        self._ready: Ready | None = None
        self._failure: Failure | None = None
        self._transition: asyncio.Task[Failure | None] | None = None
        self._users = 0
        self._waiting = 0  # for the model, to become its users
        self._nobody_waits = asyncio.Event()
        self._unused = asyncio.Event()
        self._unused.set()
        self._expiry: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def loaded(self) -> Loaded | None:
        """What is known of the model; None while it is not in memory."""
        return self._ready.loaded if self._ready else None

    @property
    def idle(self) -> bool:
        """It is in memory, and nobody uses it, or is about to."""
        used = self._users or self._waiting or self._transition is not None
        return self._ready is not None and not used

    def stats(self) -> v1.EngineStats | None:
        """The engine's live figures; None while the model is not in memory."""
        return self._ready.engine.stats() if self._ready else None

    async def look(self) -> None:
        """Find out what can be known without loading, or asking the network."""
        with suppress(Exception):  # a damaged file: loading says which
            seen = await asyncio.to_thread(self._recipe.look, False)
            self._budget.expect(self.name, seen)
            self.embeds = seen.embeds if seen else None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Ready]:
        """The model in memory, loaded now where it is not; it stays for as long as it is used.

        A load that failed is not tried again: calls would queue up behind one after the other.
        `load` tries. One for which there was no memory at the time is: that may have changed.
        """
        self._waiting += 1
        self._nobody_waits.clear()
        try:
            while self._ready is None or self._transition is not None or self._closed:
                if self._closed:
                    raise _stopping()
                if self._failure is not None:
                    raise self._failure.again()
                await _until_over(self._transition or self._begin(self._load()))
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._nobody_waits.set()
        self._users += 1
        self._unused.clear()
        self._touch()
        try:
            yield self._ready
        finally:
            self._users -= 1
            self._touch()
            if self._users == 0:
                self._unused.set()

    async def load(self, evict: bool = True) -> AsyncGenerator[None, None]:
        """Load the model where it is not in memory; yields at each change, until it is.

        ``evict``: other models may have to make way for it.
        """
        if self._transition is None:
            self._failure = None
        while self._ready is None or self._transition is not None:
            if self._closed:
                raise _stopping()
            if self._failure is not None:
                raise self._failure.again()
            changed = self._changed
            transition = self._transition or self._begin(self._load(evict))
            yield
            await changed.wait()
            if transition.done():
                await _until_over(transition)
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

    async def make_way(self, patience: float) -> bool:
        """Unload, once running answers are finished; whether that was within ``patience`` s."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                # Whoever waited for it comes first, or two models could replace one another for
                # ever without answering anybody.
                while self._transition is not None or (self._waiting and self._ready is not None):
                    if self._transition is not None:
                        await asyncio.shield(self._transition)
                    else:
                        await self._nobody_waits.wait()
        if self._transition is None and self._ready is not None:
            await asyncio.shield(self._begin(self._unload(self._ready, patience)))
        return self._ready is None

    async def close(self) -> None:
        """Free everything at once; running answers fail."""
        self._closed = True
        self._touch()
        if self._engine is not None:
            await self._engine.close()
        self._unused.set()  # nobody is waited for any longer
        if self._transition is not None:
            if self._engine is None:  # it waits for memory, and need not any longer
                self._transition.cancel()
            await asyncio.wait([self._transition])
        if self._ready is not None:
            await self._ready.close()

    def _begin(
        self, transition: Coroutine[Any, Any, Failure | None]
    ) -> asyncio.Task[Failure | None]:
        async def run() -> Failure | None:
            try:
                return await transition
            finally:
                self._transition = None
                self._touch()
                self._announce()

        self._transition = asyncio.create_task(run(), name=f"model {self.name}")
        return self._transition

    async def _load(self, evict: bool = True) -> Failure | None:
        self._set(v1.MODEL_STATE_LOADING, "starting")
        self.refused = False
        try:
            if self._closed:
                raise _stopping()
            seen = await asyncio.to_thread(self._recipe.look, True) or Look()
            self.embeds = seen.embeds
            self._set(v1.MODEL_STATE_LOADING, "waiting for memory")
            cache_memory = await self._budget.claim(self, seen, evict)
            self._engine = self._recipe.make(seen, cache_memory)
            loaded = await self._engine.load(self._report)
            ready = Ready(self.name, self._engine, loaded)
            if not seen.embeds:
                await ready.prepare()
        except asyncio.CancelledError:
            if not self._closed:
                raise
            return self._failed(_stopping())
        except Exception as error:
            if self._engine is not None:
                await self._engine.close()
            return self._failed(error if isinstance(error, Failure) else _fault(error))
        self._ready = ready
        self._budget.settle(self.name, loaded.weights_bytes)
        self._set(v1.MODEL_STATE_READY, _remark(loaded))
        log(
            logging.INFO,
            "model ready",
            model=self.name,
            device=loaded.device,
            dtype=loaded.dtype,
            context_length=loaded.context_length,
        )
        return None

    def _failed(self, failure: Failure) -> Failure:
        self._engine = None
        self._budget.release(self.name)
        if failure.passing:
            self.refused = True
            self._set(v1.MODEL_STATE_UNLOADED, failure.message)
        else:
            self._failure = failure
            self._set(v1.MODEL_STATE_FAILED, failure.message)
        if not self._closed:
            level = logging.WARNING if failure.passing else logging.ERROR
            log(level, "model cannot be loaded", model=self.name, why=failure.message)
        return failure

    async def _unload(self, ready: Ready, patience: float | None = None) -> Failure | None:
        """Unload once nobody uses it; stay where that takes longer than ``patience`` s."""
        if self._users:
            self._set(self.state, f"unloading once {self._users} running answers are finished")
            try:
                async with asyncio.timeout(patience):
                    await self._unused.wait()
            except TimeoutError:
                self._set(v1.MODEL_STATE_READY, _remark(ready.loaded))
                return None
        await ready.close()
        self._ready = self._engine = None
        self._budget.release(self.name)
        self._set(v1.MODEL_STATE_UNLOADED)
        log(logging.INFO, "model unloaded", model=self.name)
        return None

    def _touch(self) -> None:
        """The model is, or was, in use now: its idle time begins anew."""
        self.used_at = time.monotonic()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._keep_alive is not None and self.idle and not self._closed:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(self._keep_alive, self._expire)

    def _expire(self) -> None:
        if self._ready is not None and self.idle:
            self._begin(self._unload(self._ready))

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


async def _until_over(transition: asyncio.Task[Failure | None]) -> None:
    """Wait for a transition without ending it; raises the failure that it ended with."""
    await asyncio.wait([transition])
    if not transition.cancelled() and (failure := transition.result()) is not None:
        raise failure.again()


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
