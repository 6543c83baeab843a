"""One answer being computed: the job that an engine is given, and the way back to who waits.

Every engine uses this, however it schedules; how it computes is not known here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local.constraint import Constraint
from penstock_server.local.text import Piece, TextStream


@dataclass(frozen=True, slots=True)
class Finish:
    """Why an answer ended: the contract's reason, the engine's own word, the stop string."""

    reason: v1.FinishReason.ValueType
    word: str
    stop: str = ""


END_OF_SEQUENCE = Finish(v1.FINISH_REASON_STOP, "end_of_sequence")
MAX_TOKENS = Finish(v1.FINISH_REASON_MAX_OUTPUT_TOKENS, "max_output_tokens")
CONTEXT_FULL = Finish(v1.FINISH_REASON_CONTEXT_LENGTH, "context_length")


class Chunk(NamedTuple):
    """More of an answer: its text, how many tokens made it, and on the last one the end.

    ``logprobs`` are those of its tokens, where they were asked for. ``pieces`` is what the text
    means, where an answer may hold more than text; ``text`` is then what the pieces' texts add
    up to, so that an engine sees whether there is something worth delivering.
    """

    text: str
    tokens: int
    finish: Finish | None = None
    logprobs: Sequence[v1.TokenLogprob] = ()
    pieces: Sequence[Piece] = ()

    @property
    def parts(self) -> Sequence[Piece]:
        """What it means: its pieces, or else text."""
        return self.pieces or (Piece("text", self.text),)


class Scores(NamedTuple):
    """How likely a drawn token was.

    ``logprob`` is the natural logarithm of its probability (before temperature and the like);
    ``top`` are the likeliest token ids in its place with theirs, likeliest first.
    """

    logprob: float
    top: Sequence[tuple[int, float]] = ()


Name = Callable[[int], tuple[str, bytes]]
"""A token's text, and its bytes (empty: not known)."""


class Job:
    """A prompt to be continued.

    ``prompt`` are token ids, at least one; ``limit`` is the most tokens to write (at least 1) and
    ``at_limit`` what ends the answer then; ``end`` are the token ids that end it; ``sampling`` is
    the caller's, and what it leaves unset is the model's default.

    What a backend has to heed besides: ``constraint`` (which tokens may be drawn; None: all),
    ``top_logprobs`` (how many of `Scores.top` to report; None: `accept` needs no scores), and
    ``images`` (whatever the model's `ImageReader` made of the prompt's). What an engine may
    plan with: ``deadline`` (on `time.monotonic`'s clock; nobody waits any longer) and ``caller``
    (who asks, for fairness). ``name`` tells a token's text and bytes, for the log probabilities.

    Threads: `cancelled` is set on the event loop and read by the engine's thread; plain
    attributes do, since each is written by one thread only. `accept` belongs to the engine's
    thread.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        text: TextStream,
        sampling: v1.Sampling,
        *,
        limit: int,
        at_limit: Finish = MAX_TOKENS,
        end: Collection[int] = frozenset(),
        constraint: Constraint | None = None,
        top_logprobs: int | None = None,
        name: Name | None = None,
        images: object = None,
        deadline: float | None = None,
        caller: str = "",
    ) -> None:
        self.prompt = prompt
        self.tokens = list(prompt)
        """The prompt and what has been written after it: what is to be continued."""
        self.memo: object = None
        """The backend's own, for a job that has to join anew: what its drawing remembers."""
        self.constraint = constraint
        self.top_logprobs = top_logprobs
        self.images = images
        self.deadline = deadline
        self.caller = caller
        self.cached = 0
        """Tokens of the prompt that the engine had computed before; set by the engine."""
        self.sampling = sampling
        self.limit = limit
        self.cancelled = False
        """Nobody waits any more: compute no further token."""
        self.written = 0
        """Tokens written so far, the one that ended the answer included."""
        self.queued_at = time.monotonic()
        self.started_at: float | None = None
        """When an engine began with it, on `time.monotonic`'s clock."""
        self._text = text
        self._is_plain = type(text) is TextStream  # its pieces are nothing but text
        self.at_limit = at_limit
        self._end = end
        self._name = name
        self._logprobs: list[v1.TokenLogprob] = []  # of tokens that no text has come of yet

    @property
    def thinking_tokens(self) -> int:
        """How many of the tokens written were thoughts."""
        return self._text.thinking_tokens

    @property
    def queued(self) -> float:
        """Seconds spent waiting for the engine's attention."""
        return (self.started_at or time.monotonic()) - self.queued_at

    def accept(self, token: int, scores: Scores | None = None) -> Chunk:
        """The next token's contribution; with ``finish`` where the answer ends here.

        Raises ENGINE_FAILURE, for this answer alone, where the token breaks the constraint.
        """
        self.written += 1
        self.tokens.append(token)
        if token in self._end:
            return self.finish(END_OF_SEQUENCE, tokens=1)
        if scores is not None and self._name is not None and not self._text.hidden:
            self._logprobs.append(_token_logprob(token, scores, self._name))
        complete = False
        if self.constraint is not None:
            self.constraint.accept(token)
            complete = self.constraint.finished
        text = self._text.add(token)
        if self._text.stopped is not None:
            return self._chunk(text, 1, self._stopped(self._text.stopped))
        if complete or self._text.ended:
            return self.finish(END_OF_SEQUENCE, text, tokens=1)
        if self.written >= self.limit:
            return self.finish(self.at_limit, text, tokens=1)
        if not text or (scores is None and self._is_plain):
            return Chunk(text, 1)
        return self._chunk(text, 1)

    def finish(self, reason: Finish, text: str = "", tokens: int = 0) -> Chunk:
        """The end: ``text`` and what was held back, which may yet complete a stop string."""
        text += self._text.finish()
        stop = self._text.stopped
        return self._chunk(text, tokens, reason if stop is None else self._stopped(stop))

    def _chunk(self, text: str, tokens: int, finish: Finish | None = None) -> Chunk:
        logprobs: Sequence[v1.TokenLogprob] = ()
        if self._logprobs:
            logprobs, self._logprobs = self._logprobs, []
        return Chunk(text, tokens, finish, logprobs, self._text.take())

    def _stopped(self, stop: str) -> Finish:
        return Finish(v1.FINISH_REASON_STOP, "stop_string", stop)


def _token_logprob(token: int, scores: Scores, name: Name) -> v1.TokenLogprob:
    text, raw = name(token)
    logprob = v1.TokenLogprob(token=text, token_bytes=raw, logprob=scores.logprob)
    for other, its in scores.top:
        text, raw = name(other)
        logprob.top.add(token=text, token_bytes=raw, logprob=its)
    return logprob


def _whole(chunks: Sequence[Chunk]) -> Chunk:
    """What came in several chunks, as one."""
    pieces: Sequence[Piece] = ()
    if any(chunk.pieces for chunk in chunks):
        pieces = [piece for chunk in chunks for piece in chunk.parts]
    return Chunk(
        "".join([chunk.text for chunk in chunks]),
        sum(chunk.tokens for chunk in chunks),
        chunks[-1].finish,
        tuple(logprob for chunk in chunks for logprob in chunk.logprobs),
        pieces,
    )


class Answer(AsyncIterator[Chunk]):
    """What a job brings, for the one task that waits for it, on the event loop.

    What has come in since the last look is one chunk: a slow reader gets fewer and larger ones.
    Ends after the chunk with a ``finish``; raises the `Failure` that ended it otherwise. Closing
    it before its end cancels the job; ``leave`` is the engine's, to forget it then.
    """

    def __init__(self, job: Job, leave: Callable[[Answer], None]) -> None:
        self.job = job
        self._leave = leave
        self._arrived: deque[Chunk | Failure] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._over = False

    @property
    def caller(self) -> str:
        """Who asked; see `Admission`, as of the next two."""
        return self.job.caller

    @property
    def queued_at(self) -> float:
        """When it began to wait."""
        return self.job.queued_at

    @property
    def begun(self) -> bool:
        """Its text has begun to go out."""
        return self.job.started_at is not None

    async def __anext__(self) -> Chunk:
        """More of the answer."""
        if self._over:
            raise StopAsyncIteration
        while not self._arrived:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        chunks: list[Chunk] = []
        while self._arrived and not self._over:
            piece = self._arrived[0]
            if isinstance(piece, Failure):
                if chunks:
                    break  # what came before it first
                self._over = True
                raise piece
            self._arrived.popleft()
            chunks.append(piece)
            self._over = piece.finish is not None
        return chunks[0] if len(chunks) == 1 else _whole(chunks)

    async def aclose(self) -> None:
        """Want no more of it. May be called at any time, also twice."""
        self._over = True
        if not self.job.cancelled:
            self.job.cancelled = True
            self._leave(self)

    def receive(self, piece: Chunk | Failure) -> None:
        """Take in what the engine made; on the event loop."""
        self._arrived.append(piece)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Courier:
    """Carries what the engine's thread makes to the event loop.

    One wake-up of the loop for each step, however many answers got something in it, and none
    while an earlier one has not been answered yet: waking is the dear part, not the carrying.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bag: deque[tuple[Answer, Chunk | Failure]] = deque()
        self._called = False

    def put(self, answer: Answer, piece: Chunk | Failure) -> None:
        """Have something carried with the next `send`. From the engine's thread."""
        self._bag.append((answer, piece))

    def send(self) -> None:
        """Deliver what was put. From the engine's thread, at the end of a step."""
        if not self._bag or self._called:
            return
        self._called = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody is left to deliver to
            self._bag.clear()

    def _deliver(self) -> None:
        # Before the bag is emptied: what is put from now on gets a call of its own.
        self._called = False
        while self._bag:
            answer, piece = self._bag.popleft()
            answer.receive(piece)
