"""An engine without a model: it writes what a test says, or draws uniformly what it may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.constraint import Constraint
from penstock_server.local.engine import Engine, Loaded, Report
from penstock_server.local.job import Answer, Chunk, Job, Scores
from penstock_server.local.tokenizer import Tokenizer

from tests.sidecars.vocabularies import END, chat_tokenizer

Write = Callable[[Job], Sequence[int]]
"""The tokens of an answer; a job that is over takes no more."""


def loaded(tokenizer: Any = None, *, spare: int = 7, **known: Any) -> Loaded:
    """A model that has more scores than there are tokens, as real ones do."""
    tokenizer = tokenizer or chat_tokenizer()
    end = frozenset(known.pop("end", {tokenizer.eos_token_id or END}))
    return Loaded(Tokenizer(tokenizer), len(tokenizer) + spare, end=end, **known)


def allowed(constraint: Constraint, vocabulary: int) -> NDArray[np.int64] | None:
    """The token ids that may come next; None: all."""
    row = np.full((vocabulary + 31) // 32, 0x55555555, np.int32)
    if not constraint.fill(row):
        assert (row == 0x55555555).all(), "nothing is constrained, and the row was touched"
        return None
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")[:vocabulary]
    return np.nonzero(bits)[0]


def draw(job: Job, vocabulary: int, seed: int = 0, tokens: int = 4_000) -> list[Chunk]:
    """An answer whose tokens are drawn uniformly of those that are allowed."""
    rng = np.random.default_rng(seed)
    chunks: list[Chunk] = []
    while len(chunks) < tokens:
        may = None if job.constraint is None else allowed(job.constraint, vocabulary)
        assert may is None or len(may), "nothing may come next, and the answer is not over"
        token = rng.integers(vocabulary) if may is None else rng.choice(may)
        chunks.append(job.accept(int(token)))
        if chunks[-1].finish is not None:
            return chunks
    return chunks


class WritingEngine(Engine):
    """Writes on the event loop, a token at a time, `write`'s tokens.

    Where there is a constraint, a token that it does not allow is the test's mistake; ``write``
    None draws. The scores are made up: the token's id tells its log probability.
    """

    def __init__(self, known: Loaded, write: Write | None) -> None:
        self._known = known
        self._write = write
        self._tasks: set[asyncio.Task[None]] = set()
        self.jobs: list[Job] = []

    async def load(self, report: Report) -> Loaded:
        return self._known

    def generate(self, job: Job) -> Answer:
        self.jobs.append(job)
        answer = Answer(job, lambda answer: None)
        task = asyncio.create_task(self._answer(job, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return answer

    async def _answer(self, job: Job, answer: Answer) -> None:
        job.started_at = job.queued_at
        try:
            tokens = None if self._write is None else iter(self._write(job))
            rng = np.random.default_rng(len(self.jobs))
            while not job.cancelled:
                may = None
                if job.constraint is not None:
                    may = allowed(job.constraint, self._known.vocabulary)
                if tokens is not None:
                    token = next(tokens)
                elif may is not None:
                    token = int(rng.choice(may))
                else:
                    token = int(rng.integers(self._known.vocabulary))
                assert may is None or token in may, self._known.tokenizer.name(token)
                chunk = job.accept(token, _scores(job, token))
                answer.receive(chunk)
                if chunk.finish is not None:
                    return
                await asyncio.sleep(0)
        except Failure as failure:
            answer.receive(failure)
        except BaseException as error:
            answer.receive(Failure(v1.ERROR_REASON_ENGINE_FAILURE, repr(error)))
            raise

    def stats(self) -> v1.EngineStats:
        return v1.EngineStats(device="pen")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()


def _scores(job: Job, token: int) -> Scores | None:
    if job.top_logprobs is None:
        return None
    others = range(token, token + job.top_logprobs)
    return Scores(-token / 1_000, [(other, -other / 1_000) for other in others])


def text_of(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


