"""The processor's side of a process that computes: its threads, how they wait, and OpenBLAS.

Nothing is computed here: libraries read these environment variables when they are loaded, so they
have to be there before.
"""

from __future__ import annotations

import ctypes.util
import sys
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from penstock_server.local.cgroup import cores

WAITING: Mapping[str, str] = MappingProxyType(
    {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "100000", "KMP_BLOCKTIME": "1"}
)
"""How OpenMP's threads wait for work: asleep, so that they do not burn the cores of event loops;
but only after a millisecond or two. A step is hundreds of small parallel regions, and waking a
thread for each takes longer than many of them do. GNU's library counts turns, LLVM's and Intel's
milliseconds. Sources: the manuals of libgomp (GOMP_SPINCOUNT) and of LLVM's OpenMP runtime
(KMP_BLOCKTIME)."""

_BLAS_NAMES = ("openblas", "openblasp")
"""Most distributions' name, and Fedora's for the one with threads."""


def default_threads(*, both_of_two: bool = False) -> int:
    """How many threads compute where nobody says: one less than there are cores.

    Gateway and sidecar share the machine, and a thread that waits for its core holds up all that
    compute with it. ``both_of_two``: of two cores both, since half of all there is is more than
    event loops ever need.
    """
    found = cores()
    return found if both_of_two and found == 2 else max(1, found - 1)


@cache
def openblas() -> str | None:
    """The name by which this system's loader finds OpenBLAS; None where it is not installed."""
    for name in _BLAS_NAMES:
        library = ctypes.util.find_library(name)
        if library is not None:
            return library
    return None


def with_openblas(environ: Mapping[str, str], threads: int | None) -> dict[str, str]:
    """An environment in which a process has OpenBLAS from its start, where it is installed.

    The library that mlx brings along for its matrix products on Linux is the reference one, with
    which many requests at a time take as long as one after the other.

    ``threads`` is how many it computes with (None: a sidecar's own default). Where it is not
    installed, the sidecar says so in its log, since it may yet find one of another name.
    """
    library = openblas() if sys.platform == "linux" else None  # a Mac has Apple's own
    if library is None:
        return dict(environ)
    preloaded = [library, *filter(None, [environ.get("LD_PRELOAD")])]
    return {
        **environ,
        "LD_PRELOAD": ":".join(preloaded),
        "OPENBLAS_NUM_THREADS": str(threads or default_threads()),
    }
