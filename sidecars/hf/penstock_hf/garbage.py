"""Python's garbage collector around large models. Nothing heavy is imported here."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Leave out collections while half a million objects are made that stay.

    They would find nothing and take a quarter of the start-up; a later one would stop the event
    loop for a third of a second to look at all of them again, hence the freezing.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def collect() -> None:
    """Free the memory of a model that nobody refers to any more."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    # A model's modules refer to one another, and what was frozen is never collected.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
