"""What engines with a thread of their own have in common: it loads, computes in rounds, unloads.

What is computed, for whom and in which order is the engine's that builds on this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local.engine import Engine, Loaded, Report
from penstock_server.telemetry import log, logger

_CLOSE_PATIENCE = 10.0

# The engine's thread computes whenever it may. The event loops on the same cores (this process's,
# the gateway's) need little time, but at once: a step that comes 0.1 ms later is not noticed, a
# health check or a token that waits for the end of a time slice is.
_NICENESS = 5

# How long a thread may hold the interpreter when another one wants it (Python's default: 5 ms).
# Between two steps' tensors the engine needs it for microseconds, but thousands of times: with
# the default, an event loop that is busy delivering would hold it up for most of a step.
_SWITCH_INTERVAL = 0.0005


class Loadable(Protocol):
    """What every backend does, whatever it computes; on the engine's thread."""

    def load(self, report: Report) -> Loaded:
        """Bring the model into memory. What ``report`` raises ends the loading."""
        ...

    def unload(self) -> None:
        """Free everything. Called once, also after a failed `load`."""
        ...


class _Closed(Exception):
    """Loading ends here, since the engine is being closed."""


class ThreadedEngine(Engine):
    """An engine whose model belongs to exactly one thread, from loading to unloading.

    The thread loads, warms up, and calls `_compute` until that says that it is over. Where
    nobody asks, it is to wait on ``_condition``, which guards ``_closing`` and whatever queue
    the engine has.
    """

    def __init__(self, backend: Loadable, name: str) -> None:
        self._owned = backend
        self._name = name
        self._condition = threading.Condition()
        self._closing = False
        self._loaded: Loaded | None = None
        self._loop = asyncio.get_running_loop()
        self._loading: asyncio.Future[Loaded] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None

    async def load(self, report: Report) -> Loaded:
        """See `Engine.load`."""
        # A daemon: a thread deep in a computation must not keep alive a process that stops.
        self._thread = threading.Thread(
            target=self._main, args=(report,), name=f"engine-{self._name}", daemon=True
        )
        self._thread.start()
        # Shielded: a caller that goes must not take the future from the thread that fills it.
        self._loaded = await asyncio.shield(self._loading)
        return self._loaded

    async def close(self) -> None:
        """See `Engine.close`."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._abandon()
        if self._thread is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self._ended.wait()
        except TimeoutError:
            log(logging.WARNING, "an engine does not stop; it is left behind", model=self._name)

    @abstractmethod
    def _abandon(self) -> None:
        """The engine is being closed: whoever waits is told; on the event loop, `_closing` set."""

    # From here on: the engine's thread.

    @abstractmethod
    def _warm_up(self, loaded: Loaded) -> None:
        """Compute a little: the first computation pays for memory, kernels and caches."""

    @abstractmethod
    def _compute(self) -> bool:
        """Wait until somebody asks, and compute once; False: the engine is being closed."""

    @abstractmethod
    def _end_running(self) -> None:
        """Whoever is being computed for is told that it is over."""

    def _main(self, report: Report) -> None:
        try:
            loaded = self._load(report)
        except BaseException as error:  # whatever it is, somebody waits for it
            self._unload()
            self._call(_settle, self._loading, self._load_failure(error))
        else:
            self._call(_settle, self._loading, loaded)
            while self._compute():
                pass
            self._end_running()
            self._unload()
        self._call(self._ended.set)

    def _load(self, report: Report) -> Loaded:
        def pass_on(progress: float, stage: str) -> None:
            if self._closing:
                raise _Closed
            self._call(report, progress, stage)

        loaded = self._owned.load(pass_on)
        pass_on(0.95, "warming up")
        _step_back()  # not before: a start that is waited for should be quick
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self._warm_up(loaded)
        return loaded

    def _unload(self) -> None:
        try:
            self._owned.unload()
        except BaseException:
            logger.exception("unloading failed", extra={"fields": {"model": self._name}})

    def _load_failure(self, error: BaseException) -> Failure:
        if isinstance(error, Failure):
            return error
        if isinstance(error, _Closed):
            return shutting_down()
        logger.error("loading failed", exc_info=error, extra={"fields": {"model": self._name}})
        return Failure(
            v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
            f"the model could not be loaded: {type(error).__name__}: {error}",
        )

    def _answer_failure(self, error: BaseException) -> Failure:
        if isinstance(error, Failure):
            return error
        logger.error("an answer failed", exc_info=error, extra={"fields": {"model": self._name}})
        return Failure(
            v1.ERROR_REASON_ENGINE_FAILURE,
            f"the engine failed at this answer: {type(error).__name__}: {error}",
        )

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends, and nobody waits
            self._loop.call_soon_threadsafe(callback, *arguments)


def shutting_down() -> Failure:
    """The failure of whoever asks an engine that is being closed."""
    return Failure(
        v1.ERROR_REASON_SHUTTING_DOWN, "the model is being unloaded; ask again to load it again"
    )


def overloaded(waiting: int, seconds_per_job: float) -> Failure:
    """The failure of whoever asks an engine that too many wait for."""
    return Failure(
        v1.ERROR_REASON_OVERLOADED,
        f"{waiting} requests wait for this model already; try again later",
        retry_delay=max(0.1, seconds_per_job),
    )


def _step_back() -> None:
    """Let event loops go first; the threads that the engine's thread starts inherit it."""
    if sys.platform == "linux":  # elsewhere a thread has no niceness of its own
        thread = threading.get_native_id()
        with suppress(OSError):  # forbidden by a sandbox: then not
            own = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, own + _NICENESS))


def _settle(future: asyncio.Future[Loaded], outcome: Loaded | Failure) -> None:
    if isinstance(outcome, Failure):
        future.set_exception(outcome)
        future.exception()  # looked at: whoever loaded may have gone
    else:
        future.set_result(outcome)
