"""Many calls at once: who asks what next, in threads or in tasks, and when all have to wait.

What a worker does is written once, in `Plan`. ``batch`` and ``comparison`` have the public names.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from typing import Any, TypeAlias

from penstock._core import Core, Question
from penstock._flavours import Flavour, run
from penstock.errors import PenstockError, QuotaExhaustedError, RateLimitError
from penstock.events import EventType

Prompt: TypeAlias = str | Mapping[str, Any]
"""A prompt of a batch: text, or the arguments of `LLM.generate` as a mapping."""

Result: TypeAlias = Any
"""What came of one: a `GenerateResponse`, an instance of ``response_model``, or an exception."""

Ask: TypeAlias = Callable[[Core, Flavour, Question], Awaitable[Any]]
Done: TypeAlias = Callable[[int, Result], object]
Work: TypeAlias = Callable[[Done], Coroutine[Any, Any, None]]

ATTEMPTS = 6
"""How often a call is made that is told to come later, the first time included. Where others of
its plan get through meanwhile, it is merely unlucky, and that does not count."""

_LONGEST_PAUSE = 60.0
_FIRST_PAUSE = 0.5


class Plan:
    """What is to be asked, and who asks next. Safe for threads.

    ``stops_at_failure``: whether a failed call is the last that is begun.
    """

    def __init__(self, questions: Sequence[Question], ask: Ask, core: Core) -> None:
        self.questions = questions
        self.stops_at_failure = False
        self.stopped = threading.Event()
        self._ask = ask
        self._core = core
        self._places = iter(range(len(questions)))
        self._lock = threading.Lock()
        self._go_on_at = 0.0
        self._answered = 0

    async def work(self, flavour: Flavour, done: Done) -> None:
        """Ask one after the other, until there is none left; ``done`` is told of each."""
        while (place := self._next()) is not None:
            try:
                result = await self._one(flavour, self.questions[place])
            except PenstockError as error:
                result = error
                if self.stops_at_failure:
                    self.stopped.set()
            done(place, result)

    def _next(self) -> int | None:
        with self._lock:
            return None if self.stopped.is_set() else next(self._places, None)

    async def _one(self, flavour: Flavour, question: Question) -> Result:
        """Ask, and again where the server says later: then nobody asks before that."""
        attempt, answered = 1, self._answered
        while True:
            while (pause := self._go_on_at - time.monotonic()) > 0:
                await flavour.pause(pause, self.stopped)
                if self.stopped.is_set():
                    return None  # nobody waits for it
            try:
                result = await self._ask(self._core, flavour, question)
            except QuotaExhaustedError:
                raise  # waiting does not help
            except RateLimitError as error:
                attempt = attempt + 1 if answered == self._answered else 2
                answered = self._answered
                delay = error.retry_delay or _FIRST_PAUSE * 2 ** (attempt - 2)
                if attempt > ATTEMPTS or delay > _LONGEST_PAUSE:
                    await self._tell(
                        flavour, EventType.RETRY_EXHAUSTED, question, attempt - 1, error
                    )
                    raise
                self._go_on_at = max(self._go_on_at, time.monotonic() + delay)
                await self._tell(
                    flavour, EventType.RETRY_ATTEMPTED, question, attempt, error, delay
                )
                continue
            with self._lock:
                self._answered += 1
            return result

    async def _tell(
        self,
        flavour: Flavour,
        kind: EventType,
        question: Question,
        attempt: int,
        error: RateLimitError,
        delay: float | None = None,
    ) -> None:
        data = {
            "model": question.request.model,
            "current_attempt": attempt,
            "max_attempts": ATTEMPTS,
            "error_type": type(error).__name__,
            "error": str(error),
            "delay_seconds": delay,
        }
        await flavour.emit(self._core.events, kind, data, self._core.provider)


def in_threads(
    workers: Sequence[Work], count: int, stop: Callable[[], object]
) -> Iterator[tuple[int, Result]]:
    """Have a thread for each worker; ``count`` results as they come. Ends by calling ``stop``.

    Daemons, since a thread that waits for an answer must not keep the program from ending.
    """
    found: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()

    def work(worker: Work) -> None:
        try:
            run(worker(lambda place, result: found.put((place, result))))
        except BaseException as error:  # a fault, not a failed call: whoever waits has to know
            found.put((-1, error))

    try:
        for number, worker in enumerate(workers):
            threading.Thread(
                target=work, args=(worker,), name=f"penstock-call-{number}", daemon=True
            ).start()
        for _ in range(count):
            place, result = found.get()
            if place < 0:
                raise result
            yield place, result
    finally:
        stop()


async def in_tasks(
    workers: Sequence[Work], count: int, stop: Callable[[], object]
) -> AsyncGenerator[tuple[int, Result], None]:
    """`in_threads`' twin; the tasks have ended when it has."""
    found: asyncio.Queue[tuple[int, Result]] = asyncio.Queue()

    async def work(worker: Work) -> None:
        try:
            await worker(lambda place, result: found.put_nowait((place, result)))
        except BaseException as error:
            found.put_nowait((-1, error))
            raise

    tasks = [asyncio.create_task(work(worker)) for worker in workers]
    try:
        for _ in range(count):
            place, result = await found.get()
            if place < 0:
                raise result
            yield place, result
    finally:
        stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def bar(total: int, progress: bool | None, title: str) -> Iterator[Callable[[], object]]:
    """A progress bar on stderr; what is yielded moves it on by one.

    ``progress`` None: where a terminal watches, and there is more than one to wait for.
    """
    if progress is None:
        progress = total > 1 and sys.stderr is not None and sys.stderr.isatty()
    if not progress:
        yield lambda: None
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(total=total, desc=title, unit="call") as shown:
        yield shown.update


def arguments_of(prompt: Prompt) -> Mapping[str, Any]:
    """A prompt as the arguments of `LLM.generate`."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if isinstance(prompt, Mapping):
        return prompt
    raise TypeError(f"a prompt of a batch is text or a mapping, not {type(prompt).__name__}")
