"""Memory that large messages leave behind goes back to the system.

A message of tens of megabytes passes through several layers, each with its own copy, cut into
pieces. Once freed, most of that stays with the C library, for the next time. A server that once
took a few such messages would be counted as large for ever. So what is kept without being used is
looked at now and then, and given back where it has become much.

This knows glibc (Linux). Elsewhere nothing is done.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from pathlib import Path

INTERVAL = 2.0
"""Seconds between two looks, which take microseconds."""

TOO_MUCH = 24 * 1024 * 1024
"""Bytes kept beyond what was kept before, at which they are given back."""


# Between two attempts that gained nothing, in looks.
_LONGEST_PAUSE = 128


_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2``: all are sizes or counts."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


class _Glibc:
    """The two functions of it that are needed. Raises AttributeError or OSError where not there."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._info = library.mallinfo2
        self._info.restype = _Mallinfo
        self._info.argtypes = ()
        self._trim = library.malloc_trim
        self._trim.argtypes = (ctypes.c_size_t,)
        self._statm = Path("/proc/self/statm")
        self._page = os.sysconf("SC_PAGE_SIZE")

    def kept(self) -> int:
        """Bytes of memory that the process has and the allocator has not handed out."""
        info = self._info()
        resident = int(self._statm.read_text().split()[1]) * self._page
        return resident - int(info.uordblks) - int(info.hblkhd)

    def give_back(self) -> None:
        """Takes tens of milliseconds where there is much."""
        self._trim(0)


async def keep_small() -> None:
    """Give back what has become too much, for as long as the server runs."""
    if sys.platform != "linux":
        return
    try:
        allocator = _Glibc()
    except (AttributeError, OSError):  # another C library
        return
    usual = before = allocator.kept()
    pause, wait = 1, 0
    while True:
        await asyncio.sleep(INTERVAL)
        kept = allocator.kept()
        usual = min(usual, kept)
        settled = abs(kept - before) < TOO_MUCH // 8  # not while large messages come and go
        wait -= 1
        if kept - usual > TOO_MUCH and settled and wait <= 0:
            # In a thread: it would hold up the event loop.
            await asyncio.to_thread(allocator.give_back)
            gained, kept = kept - allocator.kept(), allocator.kept()
            # What could not be given back may be free later, but need not be asked for each time.
            pause = 1 if gained > TOO_MUCH // 8 else min(pause * 2, _LONGEST_PAUSE)
            wait = pause
        elif not settled:
            pause, wait = 1, 0
        before = kept
