"""Mixed traffic for minutes: does memory stay where it was, and does every connection go?

Answers whole and streamed, deltas together and spaced, errors, streams that break, callers who
cancel, and callers who hardly read, all at once. Half an hour's worth of calls of a busy service
goes through in the three minutes that are the default::

    python benchmarks/soak.py --seconds 180

Memory is read from /proc, so this needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path

import grpc
import uvloop
from penstock import v1

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gateway import Process, running

CALLERS = 48
WARM_UP = 0.25
"""The share of the time that memory may take to settle."""

# What callers do → how often.
MIX = {
    "whole": 30,
    "together": 20,
    "spaced": 6,
    "broken": 8,
    "cut": 8,
    "cancel a whole answer": 8,
    "cancel a stream": 10,
    "hardly read": 6,
    "run out of time": 4,
}


def resident(process: Process) -> float:
    """MiB of memory in use."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def descriptors(process: Process) -> int:
    """Open files and sockets."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def connections(upstream: Process) -> int:
    """Connections to the provider that are open."""
    port = f":{int(upstream.address.rpartition(':')[2].partition('/')[0]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[2].endswith(port) and line.split()[3] == "01")


class Traffic:
    """Callers who do what `MIX` says until the time is over."""

    def __init__(self, address: str, until: float) -> None:
        self._until = until
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = v1.GenerationServiceStub(self._channel)
        self.done: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()

    async def run(self) -> None:
        """All callers at once."""
        await asyncio.gather(*(self._caller(random.Random(n)) for n in range(CALLERS)))
        await self._channel.close()

    async def _caller(self, chance: random.Random) -> None:
        while time.monotonic() < self._until:
            (what,) = chance.choices(list(MIX), list(MIX.values()))
            try:
                await self._do(what, chance)
                self.statuses["OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.statuses[error.code().name] += 1
            except asyncio.CancelledError:
                self.statuses["CANCELLED"] += 1
            self.done[what] += 1

    async def _do(self, what: str, chance: random.Random) -> None:
        model = what if what in ("whole", "together", "spaced", "broken", "cut") else "spaced"
        request = v1.GenerateRequest(model=f"bench/{model}", prompt="x" * chance.randrange(1, 2000))
        if what == "whole":
            await self._stub.Generate(request)
            return
        if what == "cancel a whole answer":
            request.model = "bench/late"
            call = self._stub.Generate(request)
            await asyncio.sleep(chance.random() * 0.1)
            call.cancel()
            await call.code()
            return
        timeout = 0.5 if what == "run out of time" else None
        stream = self._stub.StreamGenerate(
            v1.StreamGenerateRequest(request=request), timeout=timeout
        )
        events = 0
        async for _ in stream:
            events += 1
            if what == "cancel a stream" and events > chance.randrange(50):
                stream.cancel()
                return
            if what == "hardly read":
                await asyncio.sleep(0.05)
                if events > 60:
                    stream.cancel()
                    return


async def run(seconds: float) -> int:
    """Make the traffic, print, and say whether memory and connections came back."""
    with running("openai-compatible", attempts=1) as processes:
        gateway, upstream = processes["gateway"], processes["upstream"]
        started = time.monotonic()
        traffic = Traffic(gateway.address, started + seconds)
        task = asyncio.create_task(traffic.run())
        await asyncio.sleep(seconds * WARM_UP)
        warm = resident(gateway)
        print(
            f"after {seconds * WARM_UP:.0f} s: {warm:.1f} MiB, {descriptors(gateway)} descriptors"
        )
        while not task.done():
            await asyncio.wait([task], timeout=seconds / 6)
            print(
                f"after {time.monotonic() - started:.0f} s: {resident(gateway):.1f} MiB, "
                f"{connections(upstream)} connections, {sum(traffic.done.values()):,} calls",
                flush=True,
            )
        await task
        waited = time.monotonic()
        # Idle connections are kept for half a minute, then closed by and by.
        while connections(upstream) and time.monotonic() - waited < 70:  # noqa: ASYNC110 # /proc
            await asyncio.sleep(0.5)
        after = resident(gateway)
        left = connections(upstream)
        print(f"\n{dict(traffic.done)}\n{dict(traffic.statuses)}")
        print(f"memory: {warm:.1f} MiB → {after:.1f} MiB ({after / warm - 1:+.1%})")
        print(
            f"connections to the provider: {left} after {time.monotonic() - waited:.0f} s; "
            f"{descriptors(gateway)} descriptors"
        )
        return 0 if left == 0 and after < warm * 1.1 else 1


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180)
    sys.exit(uvloop.run(run(parser.parse_args().seconds)))


if __name__ == "__main__":
    main()
