"""The engine: one thread that computes for everybody who asks one model, step by step.

How a step is computed is the backend's; what is asked is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local.admission import Admission
from penstock_server.local.backend import Backend, Outcome, OutOfMemory, written
from penstock_server.local.engine import Engine, Loaded, Report
from penstock_server.local.job import Answer, Courier, Job
from penstock_server.telemetry import log, logger

_WARM_UP_TOKENS = 3
_CLOSE_PATIENCE = 10.0

# The engine's thread computes whenever it may. The event loops on the same cores (this process's,
# the gateway's) need little time, but at once: a step that comes 0.1 ms later is not noticed, a
# health check or a token that waits for the end of a time slice is.
_NICENESS = 5

# How long a thread may hold the interpreter when another one wants it (Python's default: 5 ms).
# Between two steps' tensors the engine needs it for microseconds, but thousands of times: with
# the default, an event loop that is busy delivering would hold it up for most of a step.
_SWITCH_INTERVAL = 0.0005


class _Closed(Exception):
    """Loading ends here, since the engine is being closed."""


class BatchEngine(Engine):
    """Computes many answers at once: requests join and leave the running batch at every step.

    Concurrency: a model computes one step for 16 sequences in little more time than for one, as
    long as a single thread puts them into one batch; several threads that each compute for one
    caller only get in each other's way. So exactly one thread owns the model, from loading to
    unloading, and nothing else touches it: neither torch nor mlx promises anything to a second
    one. It goes round for as long as anybody waits::

        who has gone leaves → who is next joins, while there is room → one step → deliver

    Callers live on the event loop, which never computes. Between the two stand a bounded, fair
    queue (`Admission`) under a lock that is held for moments; each job's ``cancelled``, which one
    side writes and the other one reads; and the `Courier`, which wakes the event loop once a
    step with everybody's new text, since a wake-up costs more than what it carries. Where nobody
    asks, the thread sleeps on a condition and costs nothing.

    Nobody waits for a stranger: prompts are computed in parts between others' tokens (the
    backend's doing), a flood of one caller's requests delays that caller's, and a cancelled job
    gives its place back at the next step. Failures stay with their job. Where a step does not fit
    into memory, the job that came last goes, and the step is tried again.

    ``max_waiting`` bounds the queue: one that grows without bound answers everybody too late.

    Example::

        engine = BatchEngine(HFBackend(ModelSpec("models/tiny")), "tiny")
        loaded = await engine.load(report)
        async with aclosing(engine.generate(job)) as answer:
            async for chunk in answer: ...
    """

    def __init__(self, backend: Backend, name: str, *, max_waiting: int = 256) -> None:
        self._backend = backend
        self._name = name
        self._condition = threading.Condition()  # guards the next two
        self._queue = Admission(max_waiting)
        self._closing = False
        self._running: dict[Job, Answer] = {}  # in the order of joining; the thread's own
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._cached_tokens = 0
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
            refused = self._queue.push(answer)
            waiting = len(self._queue)
            self._condition.notify()
        if refused is not None:
            failure = _overloaded(waiting, self._seconds_per_job)
            if refused is answer:
                raise failure
            refused.receive(failure)
        return answer

    def stats(self) -> v1.EngineStats:
        """See `Engine.stats`."""
        with self._condition:
            waiting = len(self._queue)
        stats = v1.EngineStats(
            running_requests=len(self._running),
            waiting_requests=waiting,
            prompt_tokens_computed=self._prompt_tokens,
            prompt_tokens_cached=self._cached_tokens,
            output_tokens_computed=self._output_tokens,
            device=self._loaded.device if self._loaded else "",
            dtype=self._loaded.dtype if self._loaded else "",
        )
        self._backend.measure(stats)
        return stats

    async def close(self) -> None:
        """See `Engine.close`."""
        with self._condition:
            self._closing = True
            waiting = self._queue.clear()
            self._condition.notify()
        for answer in waiting:
            answer.receive(_shutting_down())
        if self._thread is None:
            return
        for job in list(self._running):
            job.cancelled = True  # where a backend looks at it in the middle of a step
        try:
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self._ended.wait()
        except TimeoutError:
            log(logging.WARNING, "an engine does not stop; it is left behind", model=self._name)

    def _leave(self, answer: Answer) -> None:
        with self._condition:
            self._queue.remove(answer)  # it may run instead, or be done

    # From here on: the engine's thread.

    def _main(self, report: Report) -> None:
        try:
            loaded = self._load(report)
        except BaseException as error:  # whatever it is, somebody waits for it
            self._unload()
            self._call(_settle, self._loading, self._load_failure(error))
        else:
            self._call(_settle, self._loading, loaded)
            while self._gather():
                self._step()
                self._courier.send()
            for job in list(self._running):
                self._end(job, _shutting_down())
            self._courier.send()
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
        sys.setswitchinterval(_SWITCH_INTERVAL)
        # The first computation pays for memory, kernels and caches: none of the callers should.
        prompt = loaded.tokenizer.encode("Hello") or [0]
        job = Job(prompt, loaded.tokenizer.text_stream(), v1.Sampling(), limit=_WARM_UP_TOKENS)
        for _ in written(self._backend, job, _WARM_UP_TOKENS):
            pass
        return loaded

    def _gather(self) -> bool:
        """Have the batch be those who wait, as many as there is room for; False: no more ever."""
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._running or self._closing)
            if self._closing:
                return False
        for job in [job for job in self._running if job.cancelled]:
            self._end(job)
        while True:
            with self._condition:
                if not self._queue:
                    return True
                answer = self._queue.pop()
            if not self._join(answer):
                with self._condition:
                    self._queue.put_back(answer)
                return True

    def _join(self, answer: Answer) -> bool:
        job = answer.job
        if job.started_at is None:
            job.started_at = time.monotonic()
        self._running[job] = answer
        try:
            if job.cancelled:  # in the moment between leaving the queue and this
                self._end(job)
            elif not self._backend.join(job):
                del self._running[job]
                return False
            else:
                self._cached_tokens += job.cached
        except BaseException as error:
            self._end(job, self._answer_failure(error))
        return True

    def _step(self) -> None:
        if not self._running:
            return
        try:
            for outcome in self._backend.step():
                self._take(outcome)
        except OutOfMemory as error:
            newest = next(reversed(self._running))
            self._end(newest, _out_of_memory(error))
        except BaseException as error:  # nothing that a model does may end the thread
            failure = self._answer_failure(error)
            for job in list(self._running):
                self._end(job, failure.again())

    def _take(self, outcome: Outcome) -> None:
        job = outcome.job
        answer = self._running.get(job)
        if answer is None:
            return
        if outcome.failure is not None:
            self._end(job, outcome.failure)
        elif outcome.token is None:
            del self._running[job]
            with self._condition:
                self._queue.put_back(answer)
        else:
            self._output_tokens += 1
            if job.written == 0:
                self._prompt_tokens += len(job.prompt) - job.cached
            if job.cancelled:
                return  # it leaves before the next step
            try:
                chunk = job.accept(outcome.token, outcome.scores)
            except Failure as failure:
                self._end(job, failure)
                return
            # A token that is no text yet can wait for the next.
            if chunk.text or chunk.finish is not None:
                self._courier.put(answer, chunk)
            if chunk.finish is not None:
                self._end(job)

    def _end(self, job: Job, failure: Failure | None = None) -> None:
        answer = self._running.pop(job)
        with self._condition:
            self._queue.ended(answer)
        try:
            self._backend.leave(job)
        except Exception:
            logger.exception("leaving failed", extra={"fields": {"model": self._name}})
        if failure is not None:
            self._courier.put(answer, failure)
        elif job.started_at is not None:
            took = time.monotonic() - job.started_at
            self._seconds_per_job += 0.2 * (took - self._seconds_per_job)

    def _answer_failure(self, error: BaseException) -> Failure:
        if isinstance(error, Failure):
            return error
        logger.error("an answer failed", exc_info=error, extra={"fields": {"model": self._name}})
        return Failure(
            v1.ERROR_REASON_ENGINE_FAILURE,
            f"the engine failed at this answer: {type(error).__name__}: {error}",
        )

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


def _overloaded(waiting: int, seconds_per_job: float) -> Failure:
    return Failure(
        v1.ERROR_REASON_OVERLOADED,
        f"{waiting} requests wait for this model already; try again later",
        retry_delay=max(0.1, seconds_per_job),
    )


def _out_of_memory(error: OutOfMemory) -> Failure:
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        "there is too little memory for this answer beside those that came before it; send a "
        f"shorter prompt, or bound the context with --context-length ({error})",
    )
