"""What a model is made of, before it is in memory: the seam between a sidecar and its models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from penstock_server.local.engine import Engine


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a model's files has shown.

    ``weights`` are the bytes that they will take (0: not known), ``embeds`` whether it turns
    text into vectors, instead of writing text.
    """

    weights: int = 0
    embeds: bool = False


class Recipe(Protocol):
    """How a model's engine is made, and what can be known before."""

    def look(self, fetch: bool) -> Look | None:
        """Look at the model's files; not for the event loop. None where they are not here.

        ``fetch``: get those that say what it is, where they are not; it then returns something.
        """
        ...

    def make(self, look: Look, cache_memory: int) -> Engine:
        """The engine, on the event loop; it loads the model afterwards.

        ``cache_memory`` is how many bytes texts' keys and values may take; 0: not bounded.
        """
        ...
