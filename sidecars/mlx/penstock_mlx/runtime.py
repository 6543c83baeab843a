"""mlx itself, from before any model is loaded to the process's end: its device, BLAS, oddities.

Nothing about models. This module imports mlx only when it is asked to prepare it.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from penstock import v1
from penstock_server.errors import Failure
from penstock_server.telemetry import log

_OPENBLAS = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")
"""Debian's and most others' name, Fedora's one with threads, and the development package's."""

_prepared = False


def prepare(device: str, threads: int) -> None:
    """Import mlx and mlx-lm for this thread: on a device, with as fast a BLAS as there is.

    ``device`` is "auto", "cpu" or "gpu"; ``threads`` how many OpenBLAS uses (0: its own choice).
    To be called before anything else imports them, since both look around once, when they are
    imported. Raises SIDECAR_UNAVAILABLE where there is no such device.
    """
    global _prepared
    _prepared = True
    if sys.platform == "linux":  # on macOS, mlx uses Apple's own
        use_openblas(threads)
    import mlx.core as mx

    if device != "auto":
        try:
            mx.set_default_device(mx.gpu if device == "gpu" else mx.cpu)
        except ValueError as error:
            raise Failure(
                v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
                f"--device {device}: this mlx finds no such device; try auto ({error})",
            ) from error
    wired = mx.device_info().get("max_recommended_working_set_size")
    if wired:  # on a Mac: the memory that the system must not page out, which would be slow
        mx.set_wired_limit(int(wired))
    with _limits_kept():
        import mlx_lm.generate  # noqa: F401


def leave(code: int) -> int:
    """End the process with an exit code, at once, where mlx is in it; else return the code.

    When a thread ends that has used mlx, mlx needs Python once more to forget its functions. If
    Python is going down by then, which it does not wait for such threads to do, it ends the
    thread in the middle of that, which aborts the process (before Python 3.14).
    """
    if _prepared:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


@cache
def use_openblas(threads: int) -> bool:
    """Have an mlx that is imported later compute with OpenBLAS; returns whether it is installed.

    The library that mlx brings along for Linux takes twenty to forty times as long for a product
    of two float32 matrices, and twice as long for a vector and a matrix.
    """
    for library in _openblas():
        if threads:
            library.openblas_set_num_threads(threads)
        _keep_to_ourselves()
        return True
    log(
        logging.WARNING,
        "OpenBLAS is not installed: mlx computes slowly on a CPU "
        "(Debian: apt install libopenblas0-pthread)",
    )
    return False


def _keep_to_ourselves() -> None:
    """Have programs that mlx starts (a compiler) not begin with our OpenBLAS and its threads."""
    preloaded = os.environ.get("LD_PRELOAD", "").replace(" ", ":").split(":")
    others = [library for library in preloaded if library and "openblas" not in library]
    if others:
        os.environ["LD_PRELOAD"] = ":".join(others)
    else:
        os.environ.pop("LD_PRELOAD", None)


def _openblas() -> Iterator[ctypes.CDLL]:
    process = ctypes.CDLL(None)
    if hasattr(process, "openblas_set_num_threads"):  # preloaded, or loaded for another model
        yield process
    for name in _OPENBLAS:
        try:
            # RTLD_GLOBAL: its functions are found before those of the library that mlx is
            # linked to, as if it had been preloaded.
            yield ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue


@contextmanager
def _limits_kept() -> Iterator[None]:
    """Leave the process's limit of open files alone: each connection to a server is one.

    mlx_lm sets it to 2,048 when it is imported, and in a way that only root could take back.
    """
    own, resource.setrlimit = resource.setrlimit, lambda *_: None
    try:
        yield
    finally:
        resource.setrlimit = own
