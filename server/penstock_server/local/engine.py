"""The seam to whatever computes: what a provider may ask of an engine.

What is asked and by whom is not known here, nor is what computes: an engine gets token ids and
gives text. ``batching`` is the engine that there is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock import v1

from penstock_server.local.abilities import Abilities
from penstock_server.local.images import ImageReader
from penstock_server.local.job import Answer, Job
from penstock_server.local.tokenizer import Tokenizer

Report = Callable[[float, str], None]
"""Told how far loading has come (0 to 1) and what is being done."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is known of a model once it is in memory."""

    tokenizer: Tokenizer
    vocabulary: int = 0
    """How many token ids there are; 0: not known."""
    context_length: int = 0
    """The most tokens of prompt and answer together; 0: not known."""
    max_output_tokens: int = 0
    """The model's own default for the most tokens of an answer; 0: whatever there is room for."""
    end: frozenset[int] = frozenset()
    """The token ids that end an answer."""
    stop: tuple[str, ...] = ()
    """Strings that end every answer of this model, besides the caller's."""
    max_running: int = 1
    """The most answers that are computed at a time."""
    one_at_a_time: str = ""
    """Why no more than one, where the engine would otherwise compute many."""
    device: str = "cpu"
    dtype: str = "float32"
    weights_bytes: int = 0
    """The memory that the weights take; 0: not known."""
    image_reader: ImageReader | None = None
    """Encodes conversations with pictures; None: the model reads none."""
    scores: bool = True
    """Whether the engine hands `Scores` to ``Job.accept``, and heeds a job's ``constraint``."""
    abilities: Abilities = field(init=False, repr=False, compare=False)
    """What follows from the above: tools, thoughts, forms."""

    def __post_init__(self) -> None:
        found = Abilities(self.tokenizer, self.vocabulary, self.end)
        object.__setattr__(self, "abilities", found)


class Engine(ABC):
    """Computes the answers of one model.

    Concurrency: all methods belong on the event loop and return without computing. Behind them
    exactly one thread owns the model: it loads, warms up and decodes, and nothing else touches
    the model, since neither torch nor mlx promises anything to a second thread and a computing
    thread must not be the event loop's. What crosses between the two is a bounded queue of jobs
    one way, text the other way (one wake-up of the loop a step), and each job's ``cancelled``.

    Example::

        loaded = await engine.load(report)
        async with aclosing(engine.generate(job)) as answer:
            async for chunk in answer: ...
        await engine.close()
    """

    @abstractmethod
    async def load(self, report: Report) -> Loaded:
        """Bring the model into memory and compute a few tokens to warm it up.

        Called once; ``report`` is called on the event loop. Raises the `Failure` that says why
        the model cannot be loaded; the engine is then of no further use.
        """

    @abstractmethod
    def generate(self, job: Job) -> Answer:
        """Begin with a job, which may mean that it waits.

        Raises OVERLOADED where too many wait already, SHUTTING_DOWN after `close`. Whoever
        closes the answer before its end cancels the job: one that waits is never run, one that
        runs ends at its next token.
        """

    @abstractmethod
    def stats(self) -> v1.EngineStats:
        """Live figures."""

    @abstractmethod
    async def close(self) -> None:
        """End what runs and what waits with SHUTTING_DOWN, and free the memory.

        May be called at any time, also while the model is loading. Returns promptly.
        """
