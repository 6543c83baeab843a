"""One question to several models at the same time, and what most of them say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock._core import Core, Question
from penstock._crowd import (
    Done,
    Plan,
    Prompt,
    Result,
    Work,
    arguments_of,
    bar,
    in_tasks,
    in_threads,
)
from penstock._flavours import Flavour, run
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
    cores = [llm._core.apart() for llm in asked]
    plans = [run(_plan(core, core.blocking, prompt, options)) for core in cores]
    workers = [
        _worker(place, plan, core.blocking)
        for place, (plan, core) in enumerate(zip(plans, cores, strict=True))
    ]

    def stop() -> None:
        for plan, core in zip(plans, cores, strict=True):
            plan.stopped.set()
            core.close()  # cancels what still runs

    found: dict[int, Result] = {}
    with bar(len(asked), progress, "models") as moved:
        for place, result in in_threads(workers, len(asked), stop):
            found[place] = result
            moved()
    return _compared(asked, found)


async def acompare(
    llms: Iterable[LLM], prompt: Prompt, *, progress: bool | None = None, **options: Any
) -> Comparison:
    """`compare`'s twin."""
    asked = list(llms)
    cores = [llm._core for llm in asked]
    plans = [await _plan(core, core.asynchronous, prompt, options) for core in cores]
    workers = [
        _worker(place, plan, core.asynchronous)
        for place, (plan, core) in enumerate(zip(plans, cores, strict=True))
    ]
    found: dict[int, Result] = {}
    with bar(len(asked), progress, "models") as moved:
        async with aclosing(in_tasks(workers, len(asked), lambda: None)) as running:
            async for place, result in running:
                found[place] = result
                moved()
    return _compared(asked, found)


async def _plan(core: Core, flavour: Flavour, prompt: Prompt, options: dict[str, Any]) -> Plan:
    question = await core.prepare(flavour, **{**options, **arguments_of(prompt)})
    return Plan([question], _generate, core)


def _worker(place: int, plan: Plan, flavour: Flavour) -> Work:
    async def work(done: Done) -> None:
        await plan.work(flavour, lambda _, result: done(place, result))

    return work


async def _generate(core: Core, flavour: Flavour, question: Question) -> GenerateResponse:
    return await core.generate(flavour, question)


def _compared(asked: Sequence[LLM], found: Mapping[int, Result]) -> Comparison:
    results = []
    for place, llm in enumerate(asked):
        result = found[place]
        if isinstance(result, PenstockError):
            results.append(Compared(llm, error=result))
        else:
            results.append(Compared(llm, response=result))
    return Comparison(results)
