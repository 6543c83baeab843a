"""Many calls at once: a list of prompts to one model.

What a worker does is written once; threads run it for ``batch``, tasks for ``abatch``. The
public methods are `LLM.batch` and `LLM.abatch`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager
from typing import Any, Literal, TypeAlias, overload

from penstock._core import Core, Question
from penstock._flavours import Flavour, run
from penstock.errors import PenstockError, QuotaExhaustedError, RateLimitError
from penstock.events import EventType
from penstock.structured import ATTEMPTS as ANSWERS
from penstock.structured import attempts_of, generate_structured

Prompt: TypeAlias = str | Mapping[str, Any]
"""A prompt of a batch: text, or the arguments of `LLM.generate` as a mapping."""

Result: TypeAlias = Any
"""What came of one: a `GenerateResponse`, an instance of ``response_model``, or an exception."""

CONCURRENCY = 32
"""How many calls run at a time, where nobody says otherwise."""

ATTEMPTS = 6
"""How often a call is made that is told to come later, the first time included."""

_LONGEST_PAUSE = 60.0
_FIRST_PAUSE = 0.5

Ask: TypeAlias = Callable[[Core, Flavour, Question], Awaitable[Any]]


class Plan:
    """What is to be asked, and who asks next. Safe for threads; nothing waits here."""

    def __init__(self, questions: Sequence[Question], ask: Ask, core: Core) -> None:
        self.questions = questions
        self.stopped = False
        self._ask = ask
        self._core = core
        self._places = iter(range(len(questions)))
        self._lock = threading.Lock()
        self._go_on_at = 0.0

    async def work(self, flavour: Flavour, done: Callable[[int, Result], object]) -> None:
        """Ask one after the other, until there is none left; ``done`` is told of each."""
        while (place := self._next()) is not None:
            try:
                result = await self._one(flavour, self.questions[place])
            except PenstockError as error:
                result = error
            done(place, result)

    def _next(self) -> int | None:
        with self._lock:
            return None if self.stopped else next(self._places, None)

    async def _one(self, flavour: Flavour, question: Question) -> Result:
        """Ask, and again where the server says later: then nobody asks before that."""
        attempt = 1
        while True:
            if (pause := self._go_on_at - time.monotonic()) > 0:
                await flavour.pause(pause)
                continue
            try:
                return await self._ask(self._core, flavour, question)
            except QuotaExhaustedError:
                raise  # waiting does not help
            except RateLimitError as error:
                if attempt >= ATTEMPTS:
                    await self._tell(flavour, EventType.RETRY_EXHAUSTED, question, attempt, error)
                    raise
                delay = error.retry_delay or _FIRST_PAUSE * 2 ** (attempt - 1)
                delay = min(delay, _LONGEST_PAUSE)
                self._go_on_at = max(self._go_on_at, time.monotonic() + delay)
                attempt += 1
                await self._tell(
                    flavour, EventType.RETRY_ATTEMPTED, question, attempt, error, delay
                )

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


def in_threads(plan: Plan, flavour: Flavour, workers: int) -> Iterator[tuple[int, Result]]:
    """Have threads work on it; results as they come. Whoever stops iterating stops the plan.

    Daemons, since a thread that waits for an answer must not keep the program from ending.
    """
    done: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()

    def work() -> None:
        try:
            run(plan.work(flavour, lambda place, result: done.put((place, result))))
        except BaseException as error:  # a fault, not a failed call: whoever waits has to know
            done.put((-1, error))

    for number in range(workers):
        threading.Thread(target=work, name=f"batch-{number}", daemon=True).start()
    try:
        for _ in plan.questions:
            place, result = done.get()
            if place < 0:
                raise result
            yield place, result
    finally:
        plan.stopped = True


async def in_tasks(
    plan: Plan, flavour: Flavour, workers: int
) -> AsyncGenerator[tuple[int, Result], None]:
    """`in_threads`' twin."""
    done: asyncio.Queue[tuple[int, Result]] = asyncio.Queue()

    async def work() -> None:
        try:
            await plan.work(flavour, lambda place, result: done.put_nowait((place, result)))
        except Exception as error:
            done.put_nowait((-1, error))

    tasks = [asyncio.create_task(work(), name=f"batch-{number}") for number in range(workers)]
    try:
        for _ in plan.questions:
            place, result = await done.get()
            if place < 0:
                raise result
            yield place, result
    finally:
        plan.stopped = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def bar(total: int, progress: bool | None, title: str) -> Iterator[Callable[[], object]]:
    """A progress bar on stderr; what is yielded moves it on by one.

    ``progress`` None: where a terminal watches, and there is more than one to wait for.
    """
    if progress is False or (progress is None and total < 2):
        yield lambda: None
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(
        total=total, desc=title, unit="call", disable=None if progress is None else False
    ) as shown:
        yield shown.update


def arguments_of(prompt: Prompt) -> Mapping[str, Any]:
    """A prompt as the arguments of `LLM.generate`."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if isinstance(prompt, Mapping):
        return prompt
    raise TypeError(f"a prompt of a batch is text or a mapping, not {type(prompt).__name__}")


class Batching:
    """The part of `penstock.LLM` that asks many things at once."""

    _core: Core

    @overload
    def batch(
        self, prompts: Iterable[Prompt], *, as_completed: Literal[False] = ..., **options: Any
    ) -> list[Result]: ...
    @overload
    def batch(
        self, prompts: Iterable[Prompt], *, as_completed: Literal[True], **options: Any
    ) -> Iterator[tuple[int, Result]]: ...
    def batch(
        self,
        prompts: Iterable[Prompt],
        *,
        max_concurrency: int = CONCURRENCY,
        as_completed: bool = False,
        return_exceptions: bool = False,
        progress: bool | None = None,
        **options: Any,
    ) -> Any:
        """Ask many things at once; takes about as long as the slowest of them.

        Args:
            prompts: texts, or mappings with the arguments of `generate`.
            max_concurrency: how many calls run at a time.
            as_completed: whether to return an iterator of ``(place, result)`` as answers come,
                instead of a list in the order of the prompts.
            return_exceptions: whether a failed call's `PenstockError` is its result. Else the
                first failure is raised, and what still runs is cancelled.
            progress: whether to show a bar on stderr. Default: where a terminal watches.
            **options: as of `generate`, for all of them.

        A server that says "too many, come back later" (RateLimitError) is heeded by all calls of
        the batch, which then are made again, up to five times.

        Example::

            for response in llm.batch([f"Summarise: {text}" for text in texts]):
                print(response.content)
        """
        core = self._core.apart()  # a connection of its own: closing it cancels what runs
        plan = self._plan(core, prompts, options)
        workers = _workers(max_concurrency, plan)

        def results() -> Iterator[tuple[int, Result]]:
            try:
                with bar(len(plan.questions), progress, repr(self)) as moved:
                    for place, result in in_threads(plan, core.blocking, workers):
                        moved()
                        if isinstance(result, BaseException) and not return_exceptions:
                            raise result
                        yield place, result
            finally:
                core.connection.blocking.close()

        if as_completed:
            return results()
        found = dict(results())
        return [found[place] for place in range(len(plan.questions))]

    @overload
    async def abatch(
        self, prompts: Iterable[Prompt], *, as_completed: Literal[False] = ..., **options: Any
    ) -> list[Result]: ...
    @overload
    async def abatch(
        self, prompts: Iterable[Prompt], *, as_completed: Literal[True], **options: Any
    ) -> AsyncIterator[tuple[int, Result]]: ...
    async def abatch(
        self,
        prompts: Iterable[Prompt],
        *,
        max_concurrency: int = CONCURRENCY,
        as_completed: bool = False,
        return_exceptions: bool = False,
        progress: bool | None = None,
        **options: Any,
    ) -> Any:
        """`batch`'s twin. With ``as_completed``, await, then iterate.

        Example::

            async for place, result in await llm.abatch(prompts, as_completed=True):
                print(place, result.content)
        """
        plan = self._plan(self._core, prompts, options)
        workers = _workers(max_concurrency, plan)

        async def results() -> AsyncIterator[tuple[int, Result]]:
            with bar(len(plan.questions), progress, repr(self)) as moved:
                async with aclosing(in_tasks(plan, self._core.asynchronous, workers)) as found:
                    async for place, result in found:
                        moved()
                        if isinstance(result, BaseException) and not return_exceptions:
                            raise result
                        yield place, result

        if as_completed:
            return results()
        found = {place: result async for place, result in results()}
        return [found[place] for place in range(len(plan.questions))]

    def _plan(self, core: Core, prompts: Iterable[Prompt], options: dict[str, Any]) -> Plan:
        response_model = options.pop("response_model", None)
        attempts = attempts_of(options.pop("retry_strategy", ANSWERS))
        questions = [core.question(**{**options, **arguments_of(prompt)}) for prompt in prompts]

        async def ask(core: Core, flavour: Flavour, question: Question) -> Any:
            if response_model is None:
                return await core.generate(flavour, question)
            return await generate_structured(core, flavour, question, response_model, attempts)

        return Plan(questions, ask, core)


def _workers(max_concurrency: int, plan: Plan) -> int:
    if max_concurrency < 1:
        raise ValueError("max_concurrency: must be at least 1")
    return min(max_concurrency, len(plan.questions))
