"""One question to several models at the same time, and what most of them say."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock._core import Core, Question
from penstock._flavours import Flavour, run
from penstock.batch import Plan, Prompt, Result, arguments_of, bar
from penstock.errors import PenstockError
from penstock.response import GenerateResponse

if TYPE_CHECKING:
    from penstock.llm import LLM


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
