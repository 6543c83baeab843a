"""How much memory there is, and how much of it is left: of the machine, or of our cgroup.

Pure: files in, bytes out. What the memory is used for is not known here.
"""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from penstock_server.local.cgroup import ROOT, groups, number, read

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """How many bytes a size is: "8GiB", "500MB", "1.5g", or plain bytes.

    Without the "i" units are powers of 1,000. Raises ValueError where it is no size, or zero.

    Example: ``parse_size("1.5GiB")`` → 1610612736.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(Decimal(match[1]) * _UNITS[(match[2] or "").lower()]) if match else 0
    if size < 1:
        raise ValueError(f'{text!r} is no size; write "8GiB", "500MB" or a number of bytes')
    return size


def format_size(size: float) -> str:
    """A size for people to read. Example: ``format_size(1610612736)`` → "1.5 GiB"."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:.1f} {unit}"
    return f"{int(size)} bytes"


class Memory(NamedTuple):
    """How many bytes there are, and how many of them could be had now. 0: not known."""

    total: int
    available: int


def memory(root: Path = ROOT) -> Memory:
    """The memory that this process may have: the machine's, or its container's where that is less.

    What files are cached in counts as available, since the kernel gives it up when asked.
    """
    found = _machine(root)
    for group in groups("memory", root):
        limit = number(group / "memory.max") or number(group / "memory.limit_in_bytes")
        used = number(group / "memory.current") or number(group / "memory.usage_in_bytes")
        # The first version says "no limit" as a number that no machine has.
        if limit is None or (found.total and limit >= found.total):
            continue
        left = max(0, limit - max(0, (used or 0) - _cached(group)))
        found = Memory(limit, min(left, found.available) if found.total else left)
    return found


def _machine(root: Path) -> Memory:
    lines = (line.split() for line in read(root / "proc/meminfo").splitlines())
    sizes = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}
    if sizes:
        free = sizes.get("MemFree", 0)
        return Memory(sizes.get("MemTotal", 0), sizes.get("MemAvailable", free))
    if root != ROOT or not hasattr(os, "sysconf"):
        return Memory(0, 0)
    try:  # macOS does not tell what is available without more ado: half of all, as a guess
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return Memory(0, 0)
    return Memory(total, total // 2)


def _cached(group: Path) -> int:
    """What a group's memory holds of files, and could be taken from it."""
    lines = (line.split() for line in read(group / "memory.stat").splitlines())
    sizes = {words[0]: int(words[1]) for words in lines if len(words) == 2}
    # The first version has a group's own and, under "total", that of all below it.
    return sum(
        sizes.get(f"total_{name}", sizes.get(name, 0)) for name in ("inactive_file", "active_file")
    )
