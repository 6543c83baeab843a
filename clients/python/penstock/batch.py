"""Many prompts to one model: `LLM.batch` and `LLM.abatch`. How they run is ``_crowd``'s."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, overload

from penstock._core import Core, Question
from penstock._crowd import Plan, Prompt, Result, arguments_of, bar, in_tasks, in_threads
from penstock._flavours import Flavour, run
from penstock.structured import ATTEMPTS, attempts_of, generate_structured

CONCURRENCY = 32
"""How many calls run at a time, where nobody says otherwise."""


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
            prompts: texts, or mappings with the arguments of `generate` (without stream and
                response_model).
            max_concurrency: how many calls run at a time.
            as_completed: whether to return an iterator of ``(place, result)`` as answers come,
                instead of a list in the order of the prompts.
            return_exceptions: whether a failed call's `PenstockError` is its result. Else the
                first failure is raised, and what still runs is cancelled.
            progress: whether to show a bar on stderr. Default: where a terminal watches.
            **options: as of `generate`, for all of them.

        A server that says "too many, come back later" (RateLimitError) is heeded by all calls of
        the batch, which then are made again; they fail with it where six times in a row nobody
        gets through, or where it says later than in a minute.

        Example::

            for response in llm.batch([f"Summarise: {text}" for text in texts]):
                print(response.content)
        """
        core = self._core.apart()  # a connection of its own: closing it cancels what runs
        plan = run(_plan(core, core.blocking, prompts, options))
        plan.stops_at_failure = not return_exceptions
        workers = [partial(plan.work, core.blocking)] * _workers(max_concurrency, plan)

        def stop() -> None:
            plan.stopped.set()
            core.close()

        def results() -> Iterator[tuple[int, Result]]:
            with bar(len(plan.questions), progress, repr(self)) as moved:
                for place, result in in_threads(workers, len(plan.questions), stop):
                    moved()
                    if isinstance(result, BaseException) and not return_exceptions:
                        raise result
                    yield place, result

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
    ) -> AsyncGenerator[tuple[int, Result], None]: ...
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
        core = self._core
        plan = await _plan(core, core.asynchronous, prompts, options)
        plan.stops_at_failure = not return_exceptions
        workers = [partial(plan.work, core.asynchronous)] * _workers(max_concurrency, plan)

        async def results() -> AsyncGenerator[tuple[int, Result], None]:
            running = in_tasks(workers, len(plan.questions), plan.stopped.set)
            with bar(len(plan.questions), progress, repr(self)) as moved:
                async with aclosing(running):
                    async for place, result in running:
                        moved()
                        if isinstance(result, BaseException) and not return_exceptions:
                            raise result
                        yield place, result

        if as_completed:
            return results()
        async with aclosing(results()) as all_of_them:
            found = {place: result async for place, result in all_of_them}
        return [found[place] for place in range(len(plan.questions))]


async def _plan(
    core: Core, flavour: Flavour, prompts: Iterable[Prompt], options: dict[str, Any]
) -> Plan:
    if isinstance(prompts, str):
        raise TypeError("prompts: a list of prompts, not a single text")
    response_model = options.pop("response_model", None)
    attempts = attempts_of(options.pop("retry_strategy", ATTEMPTS))
    questions = []
    for place, prompt in enumerate(prompts):
        try:
            question = await core.prepare(flavour, **{**options, **arguments_of(prompt)})
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"prompts[{place}]: {error}") from error
        questions.append(question)

    async def ask(core: Core, flavour: Flavour, question: Question) -> Any:
        if response_model is None:
            return await core.generate(flavour, question)
        return await generate_structured(core, flavour, question, response_model, attempts)

    return Plan(questions, ask, core)


def _workers(max_concurrency: int, plan: Plan) -> int:
    if max_concurrency < 1:
        raise ValueError("max_concurrency: must be at least 1")
    return min(max_concurrency, len(plan.questions))
