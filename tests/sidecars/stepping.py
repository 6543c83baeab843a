"""Drives a backend step by step, so that a test decides who joins, leaves and goes when."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from penstock import v1
from penstock_hf.backend import HFBackend
from penstock_hf.batch import SlotBatch
from penstock_server.errors import Failure
from penstock_server.local.backend import Outcome, written
from penstock_server.local.command import ModelSpec
from penstock_server.local.constraint import Constraint
from penstock_server.local.job import Job, Scores
from penstock_server.local.text import PlainDetokenizer, TextStream
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.sidecars import random_models


def numbers(stop: Sequence[str] = ()) -> TextStream:
    """Text in which each token is its number and a space."""
    return TextStream(PlainDetokenizer(lambda ids: "".join(f"{i} " for i in ids)), stop)


@dataclass
class Wish:
    """What a job is made of: jobs themselves can be run only once."""

    prompt: Sequence[int]
    limit: int = 24
    sampling: v1.Sampling = field(default_factory=lambda: v1.Sampling(temperature=0))
    end: Collection[int] = ()
    stop: Sequence[str] = ()
    top_logprobs: int | None = None
    constraint: Callable[[], Constraint] | None = None
    caller: str = ""

    def job(self) -> Job:
        return Job(
            list(self.prompt),
            numbers(self.stop),
            self.sampling,
            limit=self.limit,
            end=frozenset(self.end),
            constraint=self.constraint() if self.constraint else None,
            top_logprobs=self.top_logprobs,
            name=lambda token: (str(token), b""),
            caller=self.caller,
        )


def prompt_of(length: int, seed: int, vocabulary: int = random_models.VOCABULARY) -> list[int]:
    """Some prompt; the ids of the tokenizer's special tokens are left out."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (length,), generator=generator).tolist()


def load(directory: Path, **settings: Any) -> HFBackend:
    """A backend that has loaded a model, on one thread of the CPU unless told otherwise."""
    settings.setdefault("device", "cpu")
    settings.setdefault("threads", 1)
    backend = HFBackend(ModelSpec(str(directory), **settings))
    backend.load(lambda progress, stage: None)
    return backend


def batch_of(backend: HFBackend) -> SlotBatch:
    """A backend's inside, for tests that have to look at it or break it."""
    batch = backend._batch
    assert isinstance(batch, SlotBatch)
    return batch


def model_of(backend: HFBackend) -> PreTrainedModel:
    """The model that a backend runs."""
    assert backend._batch is not None
    return backend._batch._model


def figures(backend: HFBackend) -> v1.EngineStats:
    """What a backend tells of itself."""
    stats = v1.EngineStats()
    backend.measure(stats)
    return stats


def alone(backend: HFBackend, wish: Wish) -> list[int]:
    """The tokens that a wish gets with nobody beside it, by nothing that was kept of others."""
    inside = backend._batch
    if isinstance(inside, SlotBatch):
        inside.prefixes.shrink(0)
    job = wish.job()
    for _ in written(backend, job, job.limit):
        pass
    if isinstance(inside, SlotBatch):
        inside.prefixes.shrink(0)
    return job.tokens[len(job.prompt) :]


@dataclass(eq=False)
class Run:
    """One wish in a `Course`: when it comes, when it goes, and what it got."""

    wish: Wish
    arrives: int = 0
    """The step before which it asks to join."""
    cancel_after: int | None = None
    """It goes when it has so many tokens, before its end."""
    cancel_at: int | None = None
    """It goes before this step."""
    job: Job = field(init=False)
    joined_at: int | None = None
    steps: list[int] = field(default_factory=list)
    """The step of each of its tokens."""
    scores: list[Scores | None] = field(default_factory=list)
    rejoined: int = 0
    failure: Failure | None = None
    over: bool = False

    def __post_init__(self) -> None:
        self.job = self.wish.job()

    @property
    def tokens(self) -> list[int]:
        """What it was answered."""
        return self.job.tokens[len(self.job.prompt) :]

    @property
    def went(self) -> bool:
        """Whether it is one that does not wait for its end."""
        return self.cancel_after is not None or self.cancel_at is not None


class Course:
    """A course of steps, as `BatchEngine` goes them, but by a plan instead of a clock.

    Example::

        course = Course(backend, [Run(Wish([5, 6])), Run(Wish([7]), arrives=3)]).run()
    """

    def __init__(self, backend: HFBackend, runs: Sequence[Run]) -> None:
        self.backend = backend
        self.runs = runs
        self.step = 0
        self.most_at_once = 0
        self.most_bytes = 0
        self._inside: dict[Job, Run] = {}
        self._waiting: list[Run] = []

    def run(self, most: int = 5_000) -> Course:
        """Go on until everybody has left."""
        while not all(run.over for run in self.runs):
            self.go()
            assert self.step < most, "it does not come to an end"
        return self

    def go(self) -> None:
        """One step."""
        for run in list(self._inside.values()):
            if self._goes(run):
                self._leave(run)
        self._waiting += [run for run in self.runs if run.arrives == self.step]
        self._waiting = [run for run in self._waiting if not (self._goes(run) and self._over(run))]
        while self._waiting and self._join(self._waiting[0]):
            self._waiting.pop(0)
        self.most_at_once = max(self.most_at_once, len(self._inside))
        for outcome in self.backend.step():
            self._take(outcome)
        figured = figures(self.backend)
        self.most_bytes = max(self.most_bytes, figured.kv_cache_bytes + figured.prefix_cache_bytes)
        self.step += 1

    def _goes(self, run: Run) -> bool:
        late = run.cancel_at is not None and self.step >= run.cancel_at
        enough = run.cancel_after is not None and len(run.steps) >= run.cancel_after
        return late or enough

    def _over(self, run: Run) -> bool:
        run.over = True
        return True

    def _join(self, run: Run) -> bool:
        try:
            if not self.backend.join(run.job):
                assert self._inside, "a backend has no room for the only job"
                return False
        except Failure as failure:
            run.failure = failure
            return self._over(run)
        run.joined_at = self.step
        self._inside[run.job] = run
        return True

    def _leave(self, run: Run) -> None:
        self.backend.leave(run.job)
        del self._inside[run.job]
        run.over = True

    def _take(self, outcome: Outcome) -> None:
        run = self._inside[outcome.job]
        if outcome.failure is not None:
            run.failure = outcome.failure
            self._leave(run)
        elif outcome.token is None:
            del self._inside[run.job]
            run.rejoined += 1
            self._waiting.insert(0, run)
        else:
            run.steps.append(self.step)
            run.scores.append(outcome.scores)
            if run.job.accept(outcome.token, outcome.scores).finish is not None:
                self._leave(run)


def together(backend: HFBackend, wishes: Sequence[Wish]) -> list[list[int]]:
    """The tokens that wishes get which all come at once."""
    runs = [Run(wish) for wish in wishes]
    Course(backend, runs).run()
    for run in runs:
        assert run.failure is None, run.failure
    return [run.tokens for run in runs]


def plain_model(directory: Path) -> PreTrainedModel:
    """The same model as transformers itself runs it, in single precision."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert isinstance(model, PreTrainedModel)
    return model


@torch.inference_mode()
def greedy_by_generate(model: PreTrainedModel, prompt: Sequence[int], limit: int) -> list[int]:
    """What ``generate()`` writes."""
    anything: Any = model
    output = anything.generate(
        torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=limit,
        min_new_tokens=None,
        eos_token_id=random_models.VOCABULARY + 1_000,  # no end, so that lengths are known
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


@torch.inference_mode()
def likeliest(model: PreTrainedModel, prompt: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """The likeliest token at each place of an answer, by one pass without any cache.

    It is the answer itself where that is greedy: what ``generate()`` finds, in a fraction of the
    time.
    """
    ids = torch.tensor([[*prompt, *tokens]])
    logits = model(input_ids=ids, use_cache=False).logits[0]
    found: list[int] = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
    return found


def settle(backend: HFBackend) -> Mapping[str, int]:
    """What is still held after everybody has left; kept beginnings are given up first."""
    inside = batch_of(backend)
    inside.prefixes.shrink(0)
    return inside.figures()
