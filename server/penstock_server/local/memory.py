"""How much memory there is, and how much of it is left: of the machine, or of our cgroup.

Pure: files in, bytes out. What the memory is used for is not known here.
"""

from __future__ import annotations

import re
from decimal import Decimal

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
