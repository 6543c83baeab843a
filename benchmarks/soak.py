"""Mixed traffic for minutes: does memory stay where it was, and does every connection go?

Answers whole and streamed, deltas together and spaced, errors, streams that break, callers who
cancel, and callers who hardly read, over HTTP; answers of the embedded model, whole and streamed,
from a sidecar; all at once, and every answer is checked: the hosted ones against what the provider
says, the sidecar's (each drawn by a seed) against what that seed brought in peace. Half an hour's
worth of calls of a busy service goes through in three minutes::

    python benchmarks/soak.py --seconds 600

Every 30 s a row tells what gateway and sidecar hold, and the last line whether that stayed flat.
Memory is read from /proc, so this needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from penstock import text_of, v1

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gateway import Process, running
from benchmarks.upstream import TOKENS

CALLERS = 96
LOCAL_CALLERS = 8
SEEDS = 32
WARM_UP = 0.25
"""The share of the time that memory may take to settle."""

GROWTH = 1.1
"""What may be resident at the end, in multiples of what was once it had settled."""

INTERVAL = 30.0
MODEL = Path(__file__).parents[1] / "models" / "tiny"

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

# What the provider of these benchmarks says.
WHOLE = "Forty-two words. " * 14
STREAMED = "".join(f" word{number}" for number in range(TOKENS))

# How each kind of call may end.
ENDS = {
    "whole": {"OK"},
    "together": {"OK"},
    "spaced": {"OK"},
    "broken": {"UNAVAILABLE"},
    "cut": {"UNAVAILABLE"},
    "cancel a whole answer": {"OK", "CANCELLED"},
    "cancel a stream": {"OK", "CANCELLED"},
    "hardly read": {"OK", "CANCELLED"},
    "run out of time": {"DEADLINE_EXCEEDED"},
    "local, whole": {"OK"},
    "local, streamed": {"OK"},
}


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds."""

    memory: float
    """MiB resident."""
    descriptors: int
    threads: int
    tasks: int = 0
    """Of asyncio; those of the sidecar are not known."""


def held(pid: int, tasks: int = 0) -> Held:
    """What the process of that id holds now."""
    process = Path(f"/proc/{pid}")
    status = (process / "status").read_text()
    return Held(
        int(status.partition("VmRSS:")[2].split()[0]) / 1024,
        len(list((process / "fd").iterdir())),
        int(status.partition("Threads:")[2].split()[0]),
        tasks,
    )


def child(pid: int) -> int:
    """The process id of the gateway's sidecar."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for one in (task / "children").read_text().split():
            return int(one)
    raise RuntimeError("the gateway has no sidecar")


def anywhere(pid: int) -> None:
    """Let the sidecar compute on any core, and not on its gateway's alone."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), range(os.cpu_count() or 1))


def connections(upstream: Process) -> int:
    """Connections to the provider that are open."""
    port = f":{int(upstream.address.rpartition(':')[2].partition('/')[0]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[2].endswith(port) and line.split()[3] == "01")


def local_request(seed: int) -> v1.GenerateRequest:
    """Asks the embedded model for that seed's answer."""
    request = v1.GenerateRequest(model="local/tiny", prompt="Tell me a story.")
    request.sampling.temperature = 1.5
    request.sampling.seed = seed
    request.sampling.max_output_tokens = 32
    return request


class Traffic:
    """Callers who do what `MIX` says until the time is over."""

    def __init__(self, address: str) -> None:
        self._until = 0.0
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = v1.GenerationServiceStub(self._channel)
        self._learned: dict[int, str] = {}
        self.done: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()

    async def learn(self) -> None:
        """Have the embedded model's answers."""
        for seed in range(SEEDS):
            self._learned[seed] = text_of(await self._stub.Generate(local_request(seed)))
        if len(set(self._learned.values())) < SEEDS:
            raise RuntimeError("answers that cannot be told apart")

    async def run(self, until: float) -> None:
        """All callers at once."""
        self._until = until
        await asyncio.gather(
            *(
                self._caller(random.Random(n), list(MIX), list(MIX.values()))
                for n in range(CALLERS)
            ),
            *(
                self._caller(random.Random(n), ["local, whole", "local, streamed"], [1, 1])
                for n in range(LOCAL_CALLERS)
            ),
        )
        await self._channel.close()

    async def _caller(self, chance: random.Random, kinds: list[str], shares: list[int]) -> None:
        while time.monotonic() < self._until:
            (what,) = chance.choices(kinds, shares)
            try:
                await (self._local if what.startswith("local") else self._do)(what, chance)
                status = "OK"
            except grpc.aio.AioRpcError as error:
                status = error.code().name
            except asyncio.CancelledError:
                status = "CANCELLED"
            self.statuses[status] += 1
            self.done[what] += 1
            if status not in ENDS[what]:
                self.wrong[f"{what}: {status}"] += 1

    def _check(self, what: str, said: str, right: str) -> None:
        if said != right:
            self.wrong[f"{what}: not the answer"] += 1

    async def _local(self, what: str, chance: random.Random) -> None:
        seed = chance.randrange(SEEDS)
        request = local_request(seed)
        if what == "local, whole":
            said = text_of(await self._stub.Generate(request))
        else:
            said = ""
            async for event in self._stub.StreamGenerate(v1.StreamGenerateRequest(request=request)):
                said += event.part_delta.text
        self._check(what, said, self._learned[seed])

    async def _do(self, what: str, chance: random.Random) -> None:
        model = what if what in ("whole", "together", "spaced", "broken", "cut") else "spaced"
        request = v1.GenerateRequest(model=f"bench/{model}", prompt="x" * chance.randrange(1, 2000))
        if what == "whole":
            self._check(what, text_of(await self._stub.Generate(request)), WHOLE)
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
        events, said = 0, ""
        enough = chance.randrange(50) if what == "cancel a stream" else 60
        async for event in stream:
            events += 1
            said += event.part_delta.text
            if what == "hardly read":
                await asyncio.sleep(0.05)
            if what in ("cancel a stream", "hardly read") and events > enough:
                stream.cancel()
                break
        else:
            self._check(what, said, STREAMED)
        if not STREAMED.startswith(said):
            self._check(what, said, STREAMED)


class Series:
    """Rows of what gateway and sidecar hold."""

    def __init__(self, gateway: Process, sidecar: int, traffic: Traffic) -> None:
        self._gateway, self._sidecar = gateway, sidecar
        self._traffic = traffic
        self._calls, self._moment = 0, time.monotonic()
        self.rows: list[tuple[float, Held, Held]] = []
        columns = f"{'MiB':>7} {'fds':>5} {'threads':>7}"
        print(f"{'':>8} | {'gateway':^27} | {'sidecar':^21} |")
        print(f"{'seconds':>8} | {columns} {'tasks':>5} | {columns} | {'calls/s':>8}", flush=True)

    def take(self, seconds: float) -> None:
        """Print a row, and keep it."""
        now, calls = time.monotonic(), sum(self._traffic.done.values())
        rate = (calls - self._calls) / max(now - self._moment, 1e-3)
        self._calls, self._moment = calls, now
        gateway, sidecar = held(self._gateway.pid, self._gateway.tasks()), held(self._sidecar)
        self.rows.append((seconds, gateway, sidecar))
        print(
            f"{seconds:8.0f} | {gateway.memory:7.1f} {gateway.descriptors:5} {gateway.threads:7} "
            f"{gateway.tasks:5} | {sidecar.memory:7.1f} {sidecar.descriptors:5} "
            f"{sidecar.threads:7} | {rate:8,.0f}",
            flush=True,
        )

    def verdict(self, warm: float) -> bool:
        """Whether nothing grew once it had settled: means of the first and last rows."""
        settled = [row for row in self.rows if row[0] >= warm]
        flat = True
        third = max(1, len(settled) // 3)
        for index, name in ((1, "gateway"), (2, "sidecar")):
            for what in ("memory", "descriptors", "threads", "tasks"):
                values = [getattr(row[index], what) for row in settled]
                if not any(values):
                    continue  # not known of this one
                early = sum(values[:third]) / third
                late = sum(values[-third:]) / third
                # Connections and calls come and go; what is forgotten would be many more.
                passing = {"descriptors": 24, "tasks": 48}.get(what, 4)
                good = late <= max(early * GROWTH, early + passing)
                flat &= good
                print(f"{name} {what}: {early:.1f} → {late:.1f} ({'flat' if good else 'GREW'})")
        return flat


async def run(seconds: float) -> int:
    """Make the traffic, print, and say whether all was right and stayed flat."""
    local = {"kind": "sidecar", "models.tiny": MODEL, "threads": 1}
    more = [f"providers.local.{key}={value}" for key, value in local.items()]
    with running("openai-compatible", attempts=1, more=more) as processes:
        gateway, upstream = processes["gateway"], processes["upstream"]
        traffic = Traffic(gateway.address)
        await traffic.learn()
        sidecar = child(gateway.pid)
        anywhere(sidecar)
        series = Series(gateway, sidecar, traffic)
        idle = held(gateway.pid, gateway.tasks())
        started = time.monotonic()
        task = asyncio.create_task(traffic.run(started + seconds))
        interval = min(INTERVAL, seconds / 8)
        while not task.done():
            await asyncio.wait([task], timeout=interval)
            if not task.done():
                series.take(time.monotonic() - started)
        await task
        waited = time.monotonic()
        # Idle connections are kept for half a minute, then closed by and by.
        while connections(upstream) and time.monotonic() - waited < 70:  # noqa: ASYNC110 # /proc
            await asyncio.sleep(0.5)
        left, after = connections(upstream), held(gateway.pid, gateway.tasks())
        print(f"\n{dict(traffic.done)}\n{dict(traffic.statuses)}")
        print(f"answers that were not right: {dict(traffic.wrong) or 'none'}")
        flat = series.verdict(seconds * WARM_UP)
        print(
            f"connections to the provider: {left} after {time.monotonic() - waited:.0f} s; "
            f"the gateway's descriptors {idle.descriptors} → {after.descriptors}, "
            f"tasks {idle.tasks} → {after.tasks}"
        )
        closed = left == 0 and after.descriptors <= idle.descriptors + 3
        closed = closed and after.tasks <= idle.tasks + 3
        good = flat and closed and not traffic.wrong
        print("flat, and every answer right" if good else "NOT as it should be")
        return 0 if good else 1


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180)
    sys.exit(uvloop.run(run(parser.parse_args().seconds)))


if __name__ == "__main__":
    main()
