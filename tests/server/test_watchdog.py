"""A process that fell silent is killed, one that never spoke is not. The processes are real."""

from __future__ import annotations

import asyncio
import sys

from penstock_server.providers import watchdog
from penstock_server.supervisor import SidecarProcess

from tests.support.processes import until

SLEEPER = "import time; time.sleep(60)"


class Answering:
    """What the process would say, if it were a sidecar."""

    def __init__(self) -> None:
        self.answering = False
        self.asked = 0

    async def __call__(self, patience: float) -> bool:
        self.asked += 1
        if not self.answering:
            await asyncio.sleep(patience)
        return self.answering


async def test_silence() -> None:
    sidecar = SidecarProcess("test", [sys.executable, "-c", SLEEPER])
    sidecar.start()
    await until(lambda: sidecar.pid)
    first = sidecar.pid
    answering = Answering()
    watching = asyncio.create_task(watchdog.watch("test", sidecar, answering, 0.2))
    try:
        await until(lambda: answering.asked > 8)
        assert sidecar.pid == first, "it may take long to start"
        answering.answering = True
        seen = answering.asked
        await until(lambda: answering.asked > seen + 2)
        answering.answering = False
        await until(lambda: sidecar.pid not in (None, first))
        assert sidecar.last_exit is not None
        assert sidecar.last_exit.code == -9
        second, seen = sidecar.pid, answering.asked
        await until(lambda: answering.asked > seen + 8)
        assert sidecar.pid == second, "its successor has all its time"
    finally:
        watching.cancel()
        await sidecar.stop()
