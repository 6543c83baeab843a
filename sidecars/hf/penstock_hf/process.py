"""What loading a model does to the whole process, and so cannot be done for two at a time.

Nothing heavy is imported here.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Imports included: transformers replaces its own modules while it is imported, and a second
# thread that comes at the wrong moment finds half of them.
_one_at_a_time = threading.Lock()


@contextmanager
def exclusive() -> Iterator[None]:
    """Load one model after the other, and without garbage collections.

    While half a million objects are made that stay, these would find nothing and take a quarter
    of the start-up; a later one would stop the event loop for a third of a second to look at all
    of them again, hence the freezing.
    """
    with _one_at_a_time:
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
