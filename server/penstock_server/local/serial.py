"""The engine that computes one answer at a time: right for every model, fast for one caller.

How tokens are computed is the backend's; what is asked is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local.engine import GenerationEngine, Loaded, Report
from penstock_server.local.job import GAVE_UP, Answer, Chunk, Courier, Job
from penstock_server.telemetry import log, logger

Emit = Callable[[int], bool]
"""Takes the next token id; whether to stop."""

_WARM_UP_TOKENS = 3
_CLOSE_PATIENCE = 10.0

# The engine's thread computes whenever it may. The event loops on the same cores (this process's,
# the gateway's) need little time, but at once: a step that comes 0.1 ms later is not noticed, a
# health check or a token that waits for the end of a time slice is.
_NICENESS = 5


class Backend(Protocol):
    """What `SerialEngine` drives. Everything is called on the engine's thread."""

    def load(self, report: Report) -> Loaded:
        """Bring the model into memory. What ``report`` raises ends the loading."""
        ...

    def decode(self, job: Job, emit: Emit) -> None:
        """Continue the job's prompt token by token until ``emit`` says to stop.

        Where a single token takes long, such as the first one after a long prompt, it looks at
        ``job.cancelled`` on the way and returns early. A `Failure` is this job's alone.
        """
        ...

    def unload(self) -> None:
        """Free everything. Called once, also after a failed `load`."""
        ...


class _Closed(Exception):
    """Loading ends here, since the engine is being closed."""


class SerialEngine(GenerationEngine):
    """Computes one answer at a time, in the order of asking.

    Concurrency: as `Engine` says; the queue between the threads is a deque under a condition
    that is held for moments only. ``max_waiting`` bounds it, since a queue that grows without
    bound answers everybody too late. A job whose caller goes leaves the queue at once, and so
    frees its place.

    Failures stay with their job: whatever ``backend.decode`` raises is that answer's end, and
    the thread goes on with the next.
    """

    def __init__(self, backend: Backend, name: str, *, max_waiting: int = 256) -> None:
        self._backend = backend
        self._name = name
        self._max_waiting = max_waiting
        self._condition = threading.Condition()  # guards the next three
        self._waiting: deque[Answer] = deque()
        self._running: Answer | None = None
        self._closing = False
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._seconds_per_job = 1.0  # a guess, until there is a first one
        self._loaded: Loaded | None = None
        self._loop = asyncio.get_running_loop()
        self._courier = Courier(self._loop)
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

    def generate(self, job: Job) -> Answer:
        """See `Engine.generate`."""
        answer = Answer(job, self._leave)
        with self._condition:
            if self._closing:
                raise _shutting_down()
            if len(self._waiting) >= self._max_waiting:
                raise Failure(
                    v1.ERROR_REASON_OVERLOADED,
                    f"{len(self._waiting)} requests wait for this model already; try again later",
                    retry_delay=max(0.1, self._seconds_per_job),
                )
            self._waiting.append(answer)
            self._condition.notify()
        return answer

    def stats(self) -> v1.EngineStats:
        """See `Engine.stats`."""
        with self._condition:
            waiting, running = len(self._waiting), self._running is not None
        return v1.EngineStats(
            running_requests=int(running),
            waiting_requests=waiting,
            prompt_tokens_computed=self._prompt_tokens,
            output_tokens_computed=self._output_tokens,
            device=self._loaded.device if self._loaded else "",
            dtype=self._loaded.dtype if self._loaded else "",
        )

    async def close(self) -> None:
        """See `Engine.close`."""
        with self._condition:
            self._closing = True
            waiting, self._waiting = self._waiting, deque()
            if self._running is not None:
                self._running.job.cancelled = True
            self._condition.notify()
        for answer in waiting:
            answer.receive(_shutting_down())
        if self._thread is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self._ended.wait()
        except TimeoutError:
            log(logging.WARNING, "an engine does not stop; it is left behind", model=self._name)

    def _leave(self, answer: Answer) -> None:
        with self._condition, suppress(ValueError):  # it may run, or be done
            self._waiting.remove(answer)

    # From here on: the engine's thread.

    def _main(self, report: Report) -> None:
        try:
            loaded = self._load(report)
        except BaseException as error:  # whatever it is, somebody waits for it
            self._unload()
            self._call(_settle, self._loading, self._load_failure(error))
        else:
            self._call(_settle, self._loading, loaded)
            while (answer := self._next()) is not None:
                self._run(answer)
            self._unload()
        self._call(self._ended.set)

    def _load(self, report: Report) -> Loaded:
        def pass_on(progress: float, stage: str) -> None:
            if self._closing:
                raise _Closed
            self._call(report, progress, stage)

        loaded = self._backend.load(pass_on)
        pass_on(0.95, "warming up")
        _step_back()  # not before: a start that is waited for should be quick
        # The first computation pays for memory, kernels and caches: none of the callers should.
        prompt = loaded.tokenizer.encode("Hello") or [0]
        text = loaded.tokenizer.text_stream()
        job = Job(prompt, text, v1.Sampling(), limit=_WARM_UP_TOKENS)
        self._backend.decode(job, lambda token: job.accept(token).finish is not None)
        return loaded

    def _next(self) -> Answer | None:
        with self._condition:
            self._running = None
            self._condition.wait_for(lambda: self._waiting or self._closing)
            if self._closing:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _run(self, answer: Answer) -> None:
        job, courier = answer.job, self._courier
        if job.cancelled:  # in the moment between leaving the queue and this
            return
        finished = False

        def emit(token: int) -> bool:
            nonlocal finished
            if job.written == 0:
                self._prompt_tokens += len(job.prompt)
            self._output_tokens += 1
            chunk = job.accept(token)
            if job.cancelled:
                return True
            finished = chunk.finish is not None
            courier.put(answer, chunk)
            if chunk.text or finished:  # a token that is no text yet can wait for the next
                courier.send()
            return finished

        job.started_at = time.monotonic()
        try:
            self._backend.decode(job, emit)
            if not finished:
                courier.put(answer, _shutting_down() if job.cancelled else job.finish(GAVE_UP))
        except Failure as failure:
            courier.put(answer, failure)
        except BaseException as error:  # nothing that a model does may end the thread
            logger.exception("an answer failed", extra={"fields": {"model": self._name}})
            courier.put(answer, _answer_failure(error))
        courier.send()
        self._seconds_per_job += 0.2 * (time.monotonic() - job.started_at - self._seconds_per_job)

    def _unload(self) -> None:
        try:
            self._backend.unload()
        except Exception:
            logger.exception("unloading failed", extra={"fields": {"model": self._name}})

    def _load_failure(self, error: BaseException) -> Failure:
        if isinstance(error, Failure):
            return error
        if isinstance(error, _Closed):
            return _shutting_down()
        logger.error("loading failed", exc_info=error, extra={"fields": {"model": self._name}})
        return Failure(
            v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
            f"the model could not be loaded: {type(error).__name__}: {error}",
        )

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends, and nobody waits
            self._loop.call_soon_threadsafe(callback, *arguments)


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


def _shutting_down() -> Failure:
    return Failure(
        v1.ERROR_REASON_SHUTTING_DOWN, "the model is being unloaded; ask again to load it again"
    )


def _answer_failure(error: BaseException) -> Failure:
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        f"the engine failed at this answer: {type(error).__name__}: {error}",
    )


__all__ = ["Backend", "Chunk", "Emit", "SerialEngine"]
