"""What the kernel lets this process have: its place in the tree of cgroups, and the cores there.

A container's limits stand there, and not in what the machine tells of itself. Files in, numbers
out; what they are good for is not known here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")


def groups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """The directories of the groups that this process is in, from its own up to the tree's top.

    Of the second version's tree and of the first one's for ``controller``, as there are: a
    machine may have either, or both.
    """
    mount = root / "sys/fs/cgroup"
    lines = read(root / "proc/self/cgroup").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            trees = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            trees = [mount / controller, mount / controllers]
        else:
            continue
        tree = next((tree for tree in reversed(trees) if tree.is_dir()), None)
        if tree is None:
            continue
        # Inside a container the path may be the outside's, of which we only see our own part.
        own = tree / path.strip("/")
        if ".." in own.parts:
            own = tree
        while not own.is_dir():
            own = own.parent
        while True:
            yield own
            if own == tree:
                break
            own = own.parent


def number(file: Path) -> int | None:
    """The number that a file holds; None where there is none, or it is "max"."""
    with suppress(ValueError):
        return int(read(file))
    return None


def cores(root: Path = ROOT) -> int:
    """How many CPU cores this process may use, at least 1: those it may run on, or its quota.

    A quota of one and a half is two: threads that wait for half of the time are better than
    half of the time that nobody uses.
    """
    try:
        most: float = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        most = os.cpu_count() or 1
    for group in groups("cpu", root):
        quota: int | None = None
        period: int | None = None
        with suppress(ValueError):
            quota, period = map(int, read(group / "cpu.max").split())
        if quota is None:
            quota, period = number(group / "cpu.cfs_quota_us"), number(group / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            most = min(most, quota / period)
    return max(1, math.ceil(most))


def read(file: Path) -> str:
    """What a file says; nothing where it cannot be read."""
    try:
        return file.read_text("utf-8")
    except OSError:  # no Linux, no such controller, or forbidden: then nothing is known
        return ""
