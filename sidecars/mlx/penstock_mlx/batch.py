"""Running a model for many answers at once: prompts in parts, then one token for each per step.

How caches hold many texts is ``rows``'s to know, how tokens are drawn ``sampling``'s, who is to be
computed the engine's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.backend import Outcome, OutOfMemory
from penstock_server.local.job import Job
from penstock_server.local.sampling import Defaults

from penstock_mlx.prefixes import Prefixes, as_tokens
from penstock_mlx.rows import Rows, SingleRow
from penstock_mlx.sampling import Draw, draw

# Steps between two times that mlx is asked to give back memory that it has kept for later.
_STEPS_TO_TIDY = 256

_NO_MEMORY = ("allocate", "malloc", "out of memory", "insufficient memory")
"""What mlx's errors say where there is too little memory, on a CPU and on a GPU."""


class _Text:
    """A job's place in here: its prompt on the way, then its row."""

    def __init__(self, job: Job, defaults: Defaults) -> None:
        self.job = job
        self.draw = Draw(job, defaults)
        self.gone = False
        """It left, or has all the tokens that it may have: computed no further."""
        self.broken = False
        """What was computed of it is of no use."""
        self.suspect = False
        """It was there when a step failed: to be tried alone before it is with others again."""
        self.tokens = list(job.tokens)
        """What is to be continued, with what was drawn in the step that is under way."""
        self.begin()

    def begin(self) -> None:
        """Have nothing computed."""
        self.prompt = self.tokens[:-1]
        self.done = 0
        """How many of the tokens are in its caches, or in its row."""
        self.caches: list[Any] | None = None

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to be computed."""
        return max(0, len(self.prompt) - self.done)


class Batch:
    """Computes for those who joined; everything on the thread that loaded the model.

    Each step begins where the one before ended: by then the model has computed its scores, while
    the engine delivered the tokens before. So tokens are drawn when it is known who is still
    there and what their constraints allow, and nothing is drawn in vain::

        draw a token from each row's scores → rows go and come → compute the next scores, and
        meanwhile a part of a prompt

    A prompt is computed alone, up to its last token, ``chunk`` tokens with each step at most; with
    its last token its row joins the others. So a prompt costs no padding, keeps nobody waiting
    for longer than a part of it takes, and what is wrong with it is its own failure.

    ``limit`` bounds the bytes that caches take, of ``token_bytes`` for each token of a row (0: not
    known); prefixes that are kept have what rows leave of it.
    """

    def __init__(
        self,
        model: Module,
        make_rows: Callable[[], Rows],
        defaults: Defaults,
        *,
        most: int,
        chunk: int,
        vocabulary: int,
        limit: int = 0,
        token_bytes: int = 0,
    ) -> None:
        self.most = most
        self._model: Any = model
        self._make_rows = make_rows
        self._defaults = defaults
        self._chunk = chunk
        self._vocabulary = vocabulary
        self._limit = limit
        self._token_bytes = token_bytes
        self._prefixes = Prefixes()
        self._texts: dict[Job, _Text] = {}
        self._coming: list[_Text] = []
        """Those whose prompts are being computed, in the order of joining."""
        self._rows = make_rows()
        self._running: list[_Text] = []
        """Whose rows they are."""
        self._scores: mx.array | None = None
        """One for each row, on their way."""
        self._steps = 0
        self._failed_steps = 0
        self._error: Exception | None = None

    def join(self, job: Job) -> bool:
        """See `Backend.join`."""
        if len(self._texts) >= self.most or not self._fits(len(job.tokens) + 1):
            if self._texts:
                return False
            if not self._fits(len(job.tokens) + 1):
                raise Failure(
                    v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
                    f"there is no memory for a text of {len(job.tokens)} tokens; send a shorter "
                    "one, or start the sidecar with a larger --cache-memory",
                )
        tokens = as_tokens(job.tokens)
        if not len(tokens) or tokens.min() < 0 or tokens.max() >= self._vocabulary:
            raise Failure(
                v1.ERROR_REASON_ENGINE_FAILURE,
                f"a prompt is made of token ids from 0 to {self._vocabulary - 1}, at least one; "
                "the model's tokenizer may not be its own",
            )
        text = _Text(job, self._defaults)
        entry, length = self._prefixes.longest(tokens[:-1])
        if entry is not None:
            text.caches, text.done = entry.beginning(length), length
            if not job.written:
                job.cached = length
        self._texts[job] = text
        self._coming.append(text)
        return True

    def leave(self, job: Job) -> None:
        """See `Backend.leave`."""
        text = self._texts.pop(job, None)
        if text is None:
            return
        text.gone = True
        if text in self._coming:
            self._coming.remove(text)
        if not self._texts:
            self._settle()  # nothing of it is left
            self._scores = None
            mx.clear_cache()

    def step(self) -> Iterable[Outcome]:
        """See `Backend.step`."""
        outcomes: list[Outcome] = []
        error, self._error = self._error, None
        if error is None:
            try:
                self._draw(outcomes)
                self._settle()
                self._put_back(outcomes)
                self._compute()
            except Exception as caught:
                error = self._recover(caught)
        if error is None:
            error = self._prompts(outcomes)
        if error is not None:
            if not outcomes:
                raise error
            self._error = error  # first what was drawn before it
        self._steps += 1
        if self._steps % _STEPS_TO_TIDY == 0:
            mx.clear_cache()
        return outcomes

    def figures(self) -> dict[str, int]:
        """What `Backend.measure` tells of the batch."""
        coming = sum(c.nbytes for text in self._coming for c in text.caches or ())
        return {
            "kv_cache_bytes": self._rows.nbytes + coming,
            "prefix_cache_bytes": self._prefixes.bytes,
            "cache_limit_bytes": self._limit,
        }

    def _draw(self, outcomes: list[Outcome]) -> None:
        if self._scores is None:
            return
        mx.eval(self._scores)
        scores = np.array(self._scores, copy=False)
        self._scores = None
        there = [row for row, text in enumerate(self._running) if not text.gone]
        if len(there) < len(self._running):
            scores = scores[there]
        texts = [self._running[row] for row in there]
        drawn_rows = draw(scores, [text.draw for text in texts]) if texts else []
        for text, drawn in zip(texts, drawn_rows, strict=True):
            if drawn.failure is not None:
                text.gone = text.broken = True
                outcomes.append(Outcome(text.job, failure=drawn.failure))
                continue
            text.tokens.append(drawn.token)
            text.gone = text.job.written + 1 >= text.job.limit
            outcomes.append(Outcome(text.job, drawn.token, drawn.scores))
        self._failed_steps = 0

    def _settle(self) -> None:
        """Have as rows those who are to be computed next."""
        gone = [row for row, text in enumerate(self._running) if text.gone]
        if gone:
            self._keep(gone)
            self._running = [self._running[row] for row in self._rows.remove(set(gone))]
        for text in [text for text in self._coming if not text.left and not text.suspect]:
            self._coming.remove(text)
            caches = text.caches or self._new_caches()
            if not isinstance(self._rows, SingleRow):  # which goes on in these very caches
                self._prefixes.keep(as_tokens(text.prompt), caches)
            self._rows.add(caches, len(text.prompt))
            text.caches = None
            self._running.append(text)
        if self._limit:
            self._prefixes.shrink(max(0, self._limit - self._rows.nbytes))

    def _keep(self, rows: Sequence[int]) -> None:
        """Keep what rows have computed, for prompts that go on from it."""
        for row in rows:
            text = self._running[row]
            if not text.broken:
                caches = self._rows.take_out(row)
                mx.eval([cache.state for cache in caches])
                self._prefixes.keep(as_tokens(text.tokens[: text.done]), caches)

    def _put_back(self, outcomes: list[Outcome]) -> None:
        """Have the newest wait again where there is no room for one more token of everybody."""
        while len(self._texts) > 1 and not self._fits(0):
            job, text = self._texts.popitem()
            text.gone = True
            if text in self._coming:
                self._coming.remove(text)
            outcomes.append(Outcome(job))
            self._settle()

    def _fits(self, new: int) -> bool:
        """Whether there is room for one more token of everybody, and a text of ``new`` tokens."""
        if not self._limit or not self._token_bytes:
            return True
        texts = [text for text in self._texts.values() if not text.gone]
        longest = max(new, *(len(text.tokens) + 1 for text in texts)) if texts else new
        return (len(texts) + bool(new)) * longest * self._token_bytes <= self._limit

    def _compute(self) -> None:
        """Begin with the next scores of every row."""
        if not self._running:
            return
        self._rows.grow()
        tokens = mx.array([[text.tokens[-1]] for text in self._running])
        for text in self._running:
            text.done += 1
        scores = self._model(tokens, cache=self._rows.caches)[:, -1, :].astype(mx.float32)
        mx.async_eval(scores)  # type: ignore[no-untyped-call]
        self._scores = scores

    def _prompts(self, outcomes: list[Outcome]) -> OutOfMemory | None:
        """Compute as much of the prompts as one step may, the oldest and the shortest in turn."""
        budget = self._chunk
        coming = [text for text in self._coming if text.left or text.suspect]
        if self._steps % 2:
            coming.sort(key=lambda text: text.left)
        for text in coming:
            if budget <= 0:
                break
            count = min(budget, text.left)
            budget -= max(1, count)
            try:
                self._prompt(text, count)
            except Exception as error:
                if _is_memory(error):
                    text.begin()
                    return OutOfMemory(str(error))
                self._coming.remove(text)
                text.gone = True
                outcomes.append(Outcome(text.job, failure=_failure(error)))
        return None

    def _prompt(self, text: _Text, count: int) -> None:
        if text.caches is None:
            text.caches = self._new_caches()
        if count:
            part = text.prompt[text.done : text.done + count]
            self._model(mx.array([part]), cache=text.caches)
            states = [cache.state for cache in text.caches]
            if self._scores is None:
                mx.eval(states)  # nobody's token is on its way: look up after each part
            else:
                mx.async_eval(states)  # type: ignore[no-untyped-call]
            text.done += count
        if text.suspect and not text.left:
            mx.eval(self._model(mx.array([[text.tokens[-1]]]), cache=copy.deepcopy(text.caches)))
            text.suspect = False

    def _new_caches(self) -> list[Any]:
        caches: list[Any] = make_prompt_cache(self._model)
        return caches

    def _recover(self, error: Exception) -> Exception | None:
        """Have everybody computed anew, since a step failed halfway through.

        Whoever makes the model fail does so alone, too: each is tried alone before it is with the
        others again. Where nobody is to blame, a second failure is everybody's.
        """
        self._failed_steps += 1
        self._scores = None
        self._rows = self._make_rows()
        again = [text for text in self._running if not text.gone]
        self._running = []
        for text in again:
            text.begin()
            text.suspect = not _is_memory(error)
        self._coming = again + self._coming
        if _is_memory(error):
            return OutOfMemory(str(error))
        return error if self._failed_steps > 1 else None


def _is_memory(error: Exception) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in said for word in _NO_MEMORY)
    )


def _failure(error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    return Failure(
        v1.ERROR_REASON_ENGINE_FAILURE,
        f"the engine failed at this answer: {type(error).__name__}: {error}",
    )
