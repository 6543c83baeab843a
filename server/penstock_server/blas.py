"""OpenBLAS for sidecars that compute with mlx on Linux: found, and there before the process begins.

The library that mlx brings along for its matrix products is the reference one, with which many
requests at a time take as long as one after the other.
"""

from __future__ import annotations

import ctypes.util
import sys
from collections.abc import Mapping
from functools import cache

from penstock_server.local.cgroup import cores

_NAMES = ("openblas", "openblasp")
"""Most distributions' name, and Fedora's for the one with threads."""


@cache
def openblas() -> str | None:
    """The name by which this system's loader finds OpenBLAS; None where it is not installed."""
    for name in _NAMES:
        library = ctypes.util.find_library(name)
        if library is not None:
            return library
    return None


def with_openblas(environ: Mapping[str, str], threads: int | None) -> dict[str, str]:
    """An environment in which a process has OpenBLAS from its start, where it is installed.

    ``threads`` is how many it computes with (None: a sidecar's own default, one less than there
    are cores). Where it is not installed, the sidecar says so in its log, since it may yet find
    one of another name.
    """
    library = openblas() if sys.platform == "linux" else None  # a Mac has Apple's own
    if library is None:
        return dict(environ)
    preloaded = [library, *filter(None, [environ.get("LD_PRELOAD")])]
    return {
        **environ,
        "LD_PRELOAD": ":".join(preloaded),
        "OPENBLAS_NUM_THREADS": str(threads or max(1, cores() - 1)),
    }
