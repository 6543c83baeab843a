"""The engine of models that turn text into vectors: many texts of many callers at a time.

How vectors are computed is the backend's; which texts, and what is wrong with a request, stands
here as far as it concerns a model in memory.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from penstock import v1

from penstock_server.errors import Failure, Violation
from penstock_server.local.engine import Loaded
from penstock_server.local.threaded import Loadable, ThreadedEngine, overloaded, shutting_down

Vector = Sequence[float]

# A text joins a batch of texts up to twice its length: less than half of a batch is padding.
_MOST_PADDING = 2

_STEP_TOKENS = 2_048
_STEP_TEXTS = 64


class Text(NamedTuple):
    """What is to become a vector: token ids, and how long the vector is to be (0: as it comes)."""

    tokens: Sequence[int]
    dimensions: int = 0


class EmbeddingBackend(Loadable, Protocol):
    """What `EmbeddingEngine` drives, on the engine's thread."""

    def embed(self, texts: Sequence[Text]) -> Sequence[Vector]:
        """The texts' vectors, computed together. A `Failure`, or what else is raised, is theirs."""
        ...


class Request:
    """One caller's texts: which of them are still to be computed, and the vectors so far."""

    def __init__(self, texts: Sequence[Text], done: asyncio.Future[Sequence[Vector]]) -> None:
        self.texts = texts
        self.done = done
        self.asked_at = time.monotonic()
        self.cancelled = False
        """Nobody waits any more. Set on the event loop, read by the engine's thread."""
        self.vectors: list[Vector] = [()] * len(texts)
        self.missing = len(texts)
        self._pending = sorted(range(len(texts)), key=lambda index: len(texts[index].tokens))
        self._lengths = [len(texts[index].tokens) for index in self._pending]

    @property
    def longest(self) -> int:
        """The length of the longest text that nobody has taken; 0: all are taken."""
        return self._lengths[-1] if self._lengths else 0

    def take(self, length: int) -> int | None:
        """Take the longest text of at most ``length`` tokens, if it is not much shorter."""
        place = bisect_right(self._lengths, length) - 1
        if place < 0 or self._lengths[place] * _MOST_PADDING < length:
            return None
        del self._lengths[place]
        return self._pending.pop(place)


def next_batch(
    requests: Sequence[Request], most_tokens: int, most_texts: int
) -> list[tuple[Request, int]]:
    """Which texts to compute together: requests take turns, and the first one leads.

    The longest text of the first request says how long the batch's rows are; the others' texts
    of about that length fill it up. At most ``most_tokens``, padding included (a longer text
    is alone), and ``most_texts``.
    """
    leader = requests[0]
    length = leader.longest
    room = min(most_texts, max(1, most_tokens // max(1, length)))
    batch: list[tuple[Request, int]] = []
    turns = deque(requests)
    while turns and len(batch) < room:
        request = turns.popleft()
        index = request.take(length)
        if index is not None:
            batch.append((request, index))
            turns.append(request)
    return batch


class EmbeddingEngine(ThreadedEngine):
    """Turns texts into vectors, in batches of texts of about the same length.

    Concurrency: as `ThreadedEngine`. Requests take turns at leading a batch, so that one with
    thousands of texts holds up the others by a batch and not by itself; what of the others fits
    is computed along with it. Whoever goes gives up what is not being computed yet. A batch that
    fails is computed again in halves: a failure is the text's whose it is, and a batch that
    does not fit into memory may fit in parts.

    ``max_waiting`` bounds how many requests wait.

    Example::

        engine = EmbeddingEngine(backend, "minilm")
        loaded = await engine.load(report)
        vectors = await engine.embed([Text([101, 7592, 102])])
    """

    def __init__(self, backend: EmbeddingBackend, name: str, *, max_waiting: int = 256) -> None:
        super().__init__(backend, name)
        self._backend = backend
        self._max_waiting = max_waiting
        self._queue: deque[Request] = deque()  # guarded by the condition; the next one leads
        self._running = 0
        self._tokens = 0
        self._seconds_per_request = 1.0  # a guess, until there is a first one
        self._step_tokens, self._step_texts = _STEP_TOKENS, _STEP_TEXTS

    async def embed(self, texts: Sequence[Text]) -> Sequence[Vector]:
        """The texts' vectors, in their order.

        Raises OVERLOADED where too many wait already, SHUTTING_DOWN after `close`.
        """
        request = Request(texts, self._loop.create_future())
        with self._condition:
            if self._closing:
                raise shutting_down()
            if len(self._queue) >= self._max_waiting:
                raise overloaded(len(self._queue), self._seconds_per_request)
            self._queue.append(request)
            self._condition.notify()
        try:
            return await request.done
        finally:
            request.cancelled = True
            with self._condition:
                self._forget(request)

    def stats(self) -> v1.EngineStats:
        """See `Engine.stats`."""
        with self._condition:
            asked = len(self._queue)
        loaded = self._loaded
        return v1.EngineStats(
            running_requests=self._running,
            waiting_requests=max(0, asked - self._running),
            prompt_tokens_computed=self._tokens,
            device=loaded.device if loaded else "",
            dtype=loaded.dtype if loaded else "",
            max_running_requests=self._step_texts,
            weights_bytes=loaded.weights_bytes if loaded else 0,
        )

    def _abandon(self) -> None:
        with self._condition:
            waiting = list(self._queue)
            self._queue.clear()
        for request in waiting:
            _settle(request, shutting_down())

    def _forget(self, request: Request) -> None:
        if request in self._queue:
            self._queue.remove(request)

    # From here on: the engine's thread.

    def _warm_up(self, loaded: Loaded) -> None:
        vectors = loaded.vectors
        if vectors is not None:
            self._step_tokens = vectors.step_tokens or _STEP_TOKENS
            self._step_texts = vectors.step_texts or _STEP_TEXTS
        self._backend.embed([Text(loaded.tokenizer.encode("Hello") or [0])])

    def _compute(self) -> bool:
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._closing)
            if self._closing:
                return False
            batch = next_batch(self._queue, self._step_tokens, self._step_texts)
            self._queue.rotate(-1)
            for request in {request for request, _ in batch}:
                if not request.longest:
                    self._forget(request)  # nothing is left to be taken of it
            self._running = len({request for request, _ in batch})
        self._compute_batch(batch)
        self._running = 0
        return True

    def _end_running(self) -> None:
        """Batches are computed whole: nobody is left in the middle of one."""

    def _compute_batch(self, batch: Sequence[tuple[Request, int]]) -> None:
        batch = [(request, index) for request, index in batch if not request.cancelled]
        if not batch:
            return
        texts = [request.texts[index] for request, index in batch]
        try:
            vectors = self._backend.embed(texts)
        except BaseException as error:  # nothing that a model does may end the thread
            if len(batch) > 1:
                half = len(batch) // 2
                self._compute_batch(batch[:half])
                self._compute_batch(batch[half:])
                return
            self._finish(batch[0][0], self._answer_failure(error))
            batch[0][0].cancelled = True
            return
        self._tokens += sum(len(text.tokens) for text in texts)
        for (request, index), vector in zip(batch, vectors, strict=True):
            request.vectors[index] = vector
            request.missing -= 1
            if not request.missing:
                took = time.monotonic() - request.asked_at
                self._seconds_per_request += 0.2 * (took - self._seconds_per_request)
                self._finish(request, None)

    def _finish(self, request: Request, failure: Failure | None) -> None:
        self._running -= 1  # first: who has an answer finds nothing of it running any more
        self._call(_settle, request, failure)


def _settle(request: Request, failure: Failure | None) -> None:
    if request.done.done():
        return  # whoever asked has gone
    if failure is None:
        request.done.set_result(request.vectors)
    else:
        request.done.set_exception(failure)


_PROMPT_NAME = "prompt_name"


def check(request: v1.EmbedRequest) -> None:
    """Refuse what is wrong whatever the model."""
    for name, value in request.provider_options.fields.items():
        if name != _PROMPT_NAME or value.WhichOneof("kind") != "string_value":
            raise Failure.unsupported(
                "provider_options",
                f'local models take no option {name!r}; there is "{_PROMPT_NAME}", a text, where '
                "the model has prompts",
            )


def read(request: v1.EmbedRequest, loaded: Loaded) -> list[Text]:
    """The texts of a request that `check` let pass, as token ids; not for the event loop.

    Raises INVALID_REQUEST, and CONTEXT_LENGTH_EXCEEDED for an input that the model cannot take
    whole: what is left out of a text is left out of its vector.
    """
    vectors = loaded.vectors
    assert vectors is not None  # looked at before
    if request.dimensions > vectors.dimensions:
        problem = f"is {request.dimensions}, and the model's vectors have {vectors.dimensions}"
        raise Failure.invalid([Violation("dimensions", problem)])
    prefix = vectors.prompts.get(vectors.default_prompt, "")
    if _PROMPT_NAME in request.provider_options.fields:
        name = request.provider_options.fields[_PROMPT_NAME].string_value
        if name not in vectors.prompts:
            known = ", ".join(sorted(vectors.prompts)) or "none"
            problem = f"the model has no prompt {name!r}; it has: {known}"
            raise Failure.invalid([Violation(f"provider_options.{_PROMPT_NAME}", problem)])
        prefix = vectors.prompts[name]
    texts: list[Text] = []
    for index, text in enumerate(request.inputs):
        whole = prefix + text
        tokens = loaded.tokenizer.encode(whole.lower() if vectors.lowercase else whole)
        if loaded.context_length and len(tokens) > loaded.context_length:
            raise _too_long(index, len(tokens), loaded.context_length)
        texts.append(Text(tokens or [0], request.dimensions))
    return texts


def answer(model: str, texts: Iterable[Text], vectors: Iterable[Vector]) -> v1.EmbedResponse:
    """The response for a request's texts and their vectors; ``model`` is the full name."""
    response = v1.EmbedResponse(model=model)
    response.usage.input_tokens = sum(len(text.tokens) for text in texts)
    for vector in vectors:
        response.embeddings.add().values.extend(vector)
    return response


def _too_long(index: int, tokens: int, limit: int) -> Failure:
    problem = f"has {tokens:,} tokens and the model takes {limit:,}"
    return Failure(
        v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
        f"inputs[{index}] {problem}; split it",
        violations=[Violation(f"inputs[{index}]", problem)],
        input_tokens=str(tokens),
        context_length=str(limit),
    )
