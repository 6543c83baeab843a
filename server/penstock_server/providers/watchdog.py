"""Whether a sidecar of the gateway's own still answers; one that fell silent is ended.

A process that hangs keeps its socket and looks alive to whoever watches processes, and no call to
it ends before its deadline. Killed, it is started anew like any other that died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from penstock_server.telemetry import log

_LONGEST_INTERVAL = 5.0


class Killable(Protocol):
    """What is to be known of the process."""

    @property
    def pid(self) -> int | None:
        """The running process's id; None while there is none."""

    def kill(self) -> None:
        """End it at once."""


async def watch(
    name: str, process: Killable, answers: Callable[[float], Awaitable[bool]], patience: float
) -> None:
    """Ask again and again, and kill a process that has not answered for ``patience`` seconds.

    ``answers`` asks, and waits for so many seconds at most. A process that has not answered yet
    since it was started is not judged: models may take long to load. What counts are questions
    and not the clock, which goes on while the gateway itself is stopped.
    """
    interval = min(patience / 4, _LONGEST_INTERVAL)
    known: int | None = None
    missed = 0
    while True:
        pid = process.pid
        begun = asyncio.get_running_loop().time()
        if await answers(interval):
            known, missed = pid, 0
        elif pid is None or pid != known or pid != process.pid:
            missed = 0
        else:
            missed += 1
            if missed * interval >= patience:
                log(
                    logging.ERROR,
                    f"sidecar has not answered for {patience:g} s; killing it",
                    sidecar=name,
                    pid=pid,
                )
                process.kill()
                known = None
        spent = asyncio.get_running_loop().time() - begun
        await asyncio.sleep(max(0.0, interval - spent))
