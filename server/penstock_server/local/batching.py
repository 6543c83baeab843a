"""The engine: one thread that computes for everybody who asks one model, step by step.

How a step is computed is the backend's; what is asked is not known here.
"""

from __future__ import annotations

import time

from penstock import v1

from penstock_server.admission import Admission
from penstock_server.errors import Failure
from penstock_server.local.backend import Backend, Outcome, OutOfMemory, written
from penstock_server.local.engine import GenerationEngine, Loaded
from penstock_server.local.job import Answer, Courier, Job
from penstock_server.local.threaded import ThreadedEngine, overloaded, shutting_down
from penstock_server.telemetry import logger

_WARM_UP_TOKENS = 3


class BatchEngine(ThreadedEngine, GenerationEngine):
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
    into memory, the job that came last goes, and the step is tried again. From then on no more run
    than did fit, else all who wait would join and fail, one after the other; it is one more
    whenever as many have ended, and forgotten once nobody waits.

    ``max_waiting`` bounds the queue: one that grows without bound answers everybody too late.

    Example::

        engine = BatchEngine(HFBackend(ModelSpec("models/tiny")), "tiny")
        loaded = await engine.load(report)
        async with aclosing(engine.generate(job)) as answer:
            async for chunk in answer: ...
    """

    def __init__(self, backend: Backend, name: str, *, max_waiting: int = 256) -> None:
        super().__init__(backend, name)
        self._backend = backend
        self._queue = Admission[Answer](max_waiting)  # guarded by the condition
        self._running: dict[Job, Answer] = {}  # in the order of joining; the thread's own
        self._most: int | None = None  # how many may run, after memory has run out
        self._ended_since = 0
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._cached_tokens = 0
        self._seconds_per_job = 1.0  # a guess, until there is a first one
        self._courier = Courier(self._loop)

    def generate(self, job: Job) -> Answer:
        """See `Engine.generate`."""
        answer = Answer(job, self._leave)
        with self._condition:
            if self._closing:
                raise shutting_down()
            refused = self._queue.push(answer)
            waiting = len(self._queue)
            self._condition.notify()
        if refused is not None:
            failure = overloaded(waiting, self._seconds_per_job)
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
            weights_bytes=self._loaded.weights_bytes if self._loaded else 0,
        )
        self._backend.measure(stats)
        return stats

    def _abandon(self) -> None:
        with self._condition:
            waiting = self._queue.clear()
        for answer in waiting:
            answer.receive(shutting_down())
        for job in list(self._running):
            job.cancelled = True  # where a backend looks at it in the middle of a step

    def _leave(self, answer: Answer) -> None:
        with self._condition:
            self._queue.remove(answer)  # it may run instead, or be done

    # From here on: the engine's thread.

    def _warm_up(self, loaded: Loaded) -> None:
        prompt = loaded.tokenizer.encode("Hello") or [0]
        job = Job(prompt, loaded.tokenizer.text_stream(), v1.Sampling(), limit=_WARM_UP_TOKENS)
        for _ in written(self._backend, job, _WARM_UP_TOKENS):
            pass

    def _compute(self) -> bool:
        if not self._gather():
            return False
        self._step()
        self._courier.send()
        return True

    def _end_running(self) -> None:
        for job in list(self._running):
            self._end(job, shutting_down())
        with self._condition:  # one that found no room may have been put back meanwhile
            waiting = self._queue.clear()
        for answer in waiting:
            self._courier.put(answer, shutting_down())
        self._courier.send()

    def _gather(self) -> bool:
        """Have the batch be those who wait, as many as there is room for; False: no more ever."""
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._running or self._closing)
            if self._closing:
                return False
        for job in [job for job in self._running if job.cancelled]:
            self._drop(job)
        while True:
            with self._condition:
                if not self._queue:
                    self._most = None
                    return True
                if self._most is not None and len(self._running) >= self._most:
                    return True
                answer = self._queue.pop()
            if not self._join(answer):
                return True

    def _join(self, answer: Answer) -> bool:
        """Have an answer run, or fail; False where there is no room and it waits again."""
        job = answer.job
        self._running[job] = answer
        if job.cancelled:  # in the moment between leaving the queue and this
            self._drop(job)
            return True
        try:
            joined = self._backend.join(job)
            if not joined and len(self._running) == 1:
                raise RuntimeError("the backend has no room for the only job")
        except BaseException as error:
            self._end(job, self._answer_failure(error))
            return True
        if not joined:
            self._wait_again(job)
        elif job.started_at is None:
            job.started_at = time.monotonic()
        return joined

    def _wait_again(self, job: Job) -> None:
        with self._condition:
            if not job.cancelled:  # else it left the queue when it was not in there
                self._queue.put_back(self._running.pop(job))
                return
        self._drop(job)

    def _drop(self, job: Job) -> None:
        """End a job that was cancelled: its caller has gone, or waits still but `close` came."""
        self._end(job, shutting_down() if self._closing else None)

    def _step(self) -> None:
        if not self._running:
            return
        try:
            for outcome in self._backend.step():
                self._take(outcome)
        except OutOfMemory as error:
            self._shrink(error)
        except BaseException as error:  # nothing that a model does may end the thread
            failure = self._answer_failure(error)
            for job in list(self._running):
                self._end(job, failure.again())

    def _shrink(self, error: OutOfMemory) -> None:
        """Have the newest one go, and nobody come in its place."""
        if self._running:
            # By when they began: one that has joined anew is not the newest for that.
            newest = max(reversed(self._running), key=lambda job: job.started_at or 0.0)
            self._end(newest, _out_of_memory(error))
        # One that was too large by itself says nothing of the others.
        self._most, self._ended_since = len(self._running) or None, 0

    def _take(self, outcome: Outcome) -> None:
        job = outcome.job
        answer = self._running.get(job)
        if answer is None:
            return
        if outcome.failure is not None:
            self._end(job, outcome.failure)
        elif outcome.token is None:
            self._wait_again(job)
        else:
            self._output_tokens += 1
            if job.written == 0:
                # Not when it joined: until now a backend may take back what it had promised.
                self._prompt_tokens += len(job.prompt) - job.cached
                self._cached_tokens += job.cached
            if job.cancelled:
                return  # it leaves before the next step
            try:
                chunk = job.accept(outcome.token, outcome.scores)
            except BaseException as error:  # of its constraint, of its text: nobody else's
                self._end(job, self._answer_failure(error))
                return
            # First: whoever reads the end may ask at once whether anything still runs.
            if chunk.finish is not None:
                self._end(job)
            # A token that is no text yet can wait for the next.
            if chunk.text or chunk.finish is not None:
                self._courier.put(answer, chunk)

    def _end(self, job: Job, failure: Failure | None = None) -> None:
        answer = self._running.pop(job)
        with self._condition:
            self._queue.ended(answer)
        try:
            self._backend.leave(job)
        except BaseException:
            logger.exception("leaving failed", extra={"fields": {"model": self._name}})
        if failure is not None:
            self._courier.put(answer, failure)
        elif job.started_at is not None:
            took = time.monotonic() - job.started_at
            self._seconds_per_job += 0.2 * (took - self._seconds_per_job)
            self._ended_since += 1
            if self._most is not None and self._ended_since >= self._most:
                self._most, self._ended_since = self._most + 1, 0

    def _answer_failure(self, error: BaseException) -> Failure:
        found = isinstance(error, OutOfMemory)
        return _out_of_memory(error) if found else super()._answer_failure(error)


def _out_of_memory(error: BaseException) -> Failure:
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        "there is too little memory for this answer beside those that came before it; send a "
        f"shorter prompt, or bound the context with --context-length ({error})",
    )
