"""Many calls at once: lists of prompts to one model, and one prompt to several models.

What a worker does is written once; threads run it for ``batch``, tasks for ``abatch``. The
public methods are `LLM.batch`, `LLM.abatch`, `compare` and `acompare`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from penstock._core import Core, Question
from penstock._flavours import Flavour, run
from penstock.errors import PenstockError, QuotaExhaustedError, RateLimitError
from penstock.events import EventType
from penstock.response import GenerateResponse

if TYPE_CHECKING:
    from penstock.llm import LLM

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


async def in_tasks(plan: Plan, flavour: Flavour, workers: int) -> AsyncIterator[tuple[int, Result]]:
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
    from tqdm import tqdm

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


@dataclass(frozen=True)
class Compared:
    """What one of several models answered; either ``response`` or ``error`` is there."""

    llm: LLM
    response: GenerateResponse | None = None
    error: PenstockError | None = None


@dataclass(frozen=True)
class Comparison:
    """What several models answered to the same question, in the order in which they were given.

    Example::

        comparison = compare([one, two, three], "Is this review positive? Yes or no.")
        verdict, share = comparison.majority(lambda text: text.strip(" .").lower())
        print(verdict, f"{share:.0%}")
    """

    results: Sequence[Compared]

    @property
    def responses(self) -> list[GenerateResponse]:
        """The answers of those who gave one."""
        return [each.response for each in self.results if each.response is not None]

    @property
    def errors(self) -> list[PenstockError]:
        """The failures of those who did not."""
        return [each.error for each in self.results if each.error is not None]

    def majority(self, key: Callable[[str], Any] | None = None) -> tuple[Any, float]:
        """What most of them said, and which share of all who answered that was.

        ``key`` makes of a text what is compared; by default case and outer spaces do not count.
        Of several that are equally common the first wins. Raises ValueError where nobody
        answered.
        """
        made = key or (lambda text: text.strip().casefold())
        said = Counter(made(response.content or "") for response in self.responses)
        if not said:
            raise ValueError("none of the models answered")
        value, count = said.most_common(1)[0]
        return value, count / said.total()


def compare(
    llms: Iterable[LLM], prompt: Prompt, *, progress: bool | None = None, **options: Any
) -> Comparison:
    """Ask several models the same at the same time; see `Comparison`. Failures are values.

    Example::

        compare([create_llm("openai"), create_llm("anthropic")], "Name a river.").responses
    """
    asked = list(llms)
    found: dict[int, Result] = {}
    done: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()
    apart = [llm._core.apart() for llm in asked]
    questions = [core.question(**{**arguments_of(prompt), **options}) for core in apart]
    plans = [Plan([q], _generate, core) for q, core in zip(questions, apart, strict=True)]

    def work(place: int) -> None:
        try:
            run(
                plans[place].work(
                    apart[place].blocking, lambda _, result: done.put((place, result))
                )
            )
        except BaseException as error:
            done.put((place, error))

    try:
        with bar(len(asked), progress, "models") as moved:
            for place in range(len(asked)):
                threading.Thread(target=work, args=(place,), daemon=True).start()
            for _ in asked:
                place, result = done.get()
                found[place] = result
                moved()
    finally:
        for core in apart:
            core.connection.blocking.close()  # cancels what still runs
    return _compared(asked, found)


async def acompare(
    llms: Iterable[LLM], prompt: Prompt, *, progress: bool | None = None, **options: Any
) -> Comparison:
    """`compare`'s twin."""
    asked = list(llms)
    found: dict[int, Result] = {}
    with bar(len(asked), progress, "models") as moved:

        async def ask(place: int, core: Core) -> None:
            question = core.question(**{**arguments_of(prompt), **options})
            plan = Plan([question], _generate, core)

            def done(_: int, result: Result) -> None:
                found[place] = result
                moved()

            await plan.work(core.asynchronous, done)

        async with asyncio.TaskGroup() as group:
            for place, llm in enumerate(asked):
                group.create_task(ask(place, llm._core))
    return _compared(asked, found)


async def _generate(core: Core, flavour: Flavour, question: Question) -> GenerateResponse:
    return await core.generate(flavour, question)


def _compared(asked: Sequence[LLM], found: Mapping[int, Result]) -> Comparison:
    results = []
    for place, llm in enumerate(asked):
        result = found[place]
        if isinstance(result, PenstockError):
            results.append(Compared(llm, error=result))
        elif isinstance(result, BaseException):
            raise result
        else:
            results.append(Compared(llm, response=result))
    return Comparison(results)
