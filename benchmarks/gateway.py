"""What the gateway costs: requests and tokens a second, CPU for each, and the latency it adds.

Four processes: a mock provider (``upstream.py``), the real gateway, a gateway without any logic
(``floor.py``), and the load, which is this one. Where there are two cores, the gateway under test
has one for itself and everything else shares the other. All rows are measured in turns within the
same run, medians over the rounds; only ratios mean something::

    python benchmarks/gateway.py --rounds 5

Unary and "together" saturate the gateway. Spaced deltas come more slowly than it could take them
(otherwise they would arrive together); what counts there is the CPU for each, from /proc (Linux).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import uvloop
from penstock import v1

HERE = Path(__file__).parent
CALLERS = 32
TOKENS = 200

# What is measured → calls of one round; streams are 200 tokens each.
CALLS = {"whole": 3000, "together": 600, "spaced": 64}


class Process:
    """A server under test, and how much CPU it has used."""

    def __init__(self, name: str, command: list[str], core: int | None) -> None:
        self.name = name
        # The server's own lines go nowhere, but are written: that is part of what a call costs.
        self._popen = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if core is not None:
            os.sched_setaffinity(self._popen.pid, {core})
        assert self._popen.stdout is not None
        self.address = self._popen.stdout.readline().strip()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def cpu(self) -> float:
        """Seconds of CPU used so far, all threads; 0 where /proc does not say."""
        tasks = Path(f"/proc/{self._popen.pid}/task")
        if not tasks.exists():
            return 0.0
        return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks.iterdir()) / 1e9

    def tasks(self) -> int:
        """How many asyncio tasks a gateway of ``serve`` has."""
        assert self._popen.stdout is not None
        self._popen.send_signal(signal.SIGUSR1)
        return int(self._popen.stdout.readline())

    def stop(self) -> None:
        """End it."""
        self._popen.terminate()
        self._popen.wait(10)


class Figures(NamedTuple):
    """One round: units (requests or tokens) a second, and CPU microseconds for each."""

    rate: float
    cpu: float


async def load(address: str, model: str, calls: int) -> int:
    """Make ``calls`` calls, `CALLERS` at a time; how many units came back."""
    left = iter(range(calls))
    units = 0
    async with grpc.aio.insecure_channel(address) as channel:
        stub = v1.GenerationServiceStub(channel)
        await channel.channel_ready()

        async def caller() -> None:
            nonlocal units
            for _ in left:
                request = v1.GenerateRequest(model=f"bench/{model}", prompt="Say something.")
                if model in ("whole", "late"):
                    await stub.Generate(request)
                    units += 1
                    continue
                words = 0
                stream = stub.StreamGenerate(v1.StreamGenerateRequest(request=request))
                async for event in stream:
                    if event.HasField("part_delta"):
                        words += event.part_delta.text.count(" ")
                assert words == TOKENS, f"{words} of {TOKENS} tokens came back"
                units += words

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return units


async def measure(process: Process, model: str, calls: int) -> Figures:
    """One round."""
    cpu, started = process.cpu(), time.perf_counter()
    units = await load(process.address, model, calls)
    took = time.perf_counter() - started
    return Figures(units / took, (process.cpu() - cpu) / units * 1e6)


async def latencies(address: str, callers: int, calls: int) -> list[float]:
    """Seconds that each of ``calls`` late answers took."""
    took: list[float] = []
    left = iter(range(calls))
    async with grpc.aio.insecure_channel(address) as channel:
        stub = v1.GenerationServiceStub(channel)
        await channel.channel_ready()
        request = v1.GenerateRequest(model="bench/late", prompt="Say something.")
        await stub.Generate(request)

        async def caller() -> None:
            for _ in left:
                started = time.perf_counter()
                await stub.Generate(request)
                took.append(time.perf_counter() - started)

        await asyncio.gather(*(caller() for _ in range(callers)))
    return took


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def running(
    provider: str, attempts: int = 3, more: Sequence[str] = ()
) -> Iterator[dict[str, Process]]:
    """The processes: "gateway" (with ``more`` settings), "floor" and "coalesced floor"."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    tested, others = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    if others is not None:
        os.sched_setaffinity(0, {others})
    upstream = Process("upstream", [str(HERE / "upstream.py")], others)
    processes = {"upstream": upstream}
    try:
        processes["floor"] = Process("floor", [str(HERE / "floor.py"), upstream.address], tested)
        processes["coalesced floor"] = Process(
            "coalesced floor", [str(HERE / "floor.py"), upstream.address, "--coalesce"], tested
        )
        settings = {"kind": provider, "base_url": upstream.address, "retry.attempts": attempts}
        command = [str(HERE / "serve.py")]
        command += [f"providers.bench.{key}={value}" for key, value in settings.items()]
        command += more
        processes["gateway"] = Process("gateway", command, tested)
        yield processes
    finally:
        for process in processes.values():
            process.stop()


async def run(rounds: int, provider: str) -> None:
    """Measure and print."""
    with running(provider) as processes:
        gateway = processes["gateway"]
        rows = [
            ("whole", "floor"),
            ("spaced", "floor"),
            ("together", "coalesced floor"),
        ]
        found: dict[tuple[str, str], list[Figures]] = defaultdict(list)
        for number in range(rounds + 1):
            print(f"round {number} of {rounds}" + " (warming up)" * (number == 0), flush=True)
            for model, floor in rows:
                for process in (processes[floor], gateway):
                    figures = await measure(process, model, CALLS[model] // (1 if number else 5))
                    if number:
                        found[model, process.name].append(figures)
        print(f"\n{'':10} {'':16} {'per second':>12} {'CPU µs each':>12}")
        for model, floor in rows:
            medians = {}
            for name in (floor, "gateway"):
                rate = statistics.median(f.rate for f in found[model, name])
                cpu = statistics.median(f.cpu for f in found[model, name])
                medians[name] = Figures(rate, cpu)
                print(f"{model:10} {name:16} {rate:12,.0f} {cpu:12,.1f}")
            ratios = [
                (g.rate / f.rate, f.cpu / g.cpu if g.cpu else 0.0)
                for f, g in zip(found[model, floor], found[model, "gateway"], strict=True)
            ]
            rate, cpu = (statistics.median(r[i] for r in ratios) for i in (0, 1))
            capacity = 1e6 / medians["gateway"].cpu if medians["gateway"].cpu else 0.0
            print(
                f"{model:10} {'ratio':16} {rate:12.2f} {cpu:12.2f}"
                f"   ({capacity:,.0f} a second on one core)"
            )
        print("\nlatency beyond the provider's own 100 ms, in milliseconds")
        for callers, calls in ((1, 30), (32, 1600)):
            for name in ("floor", "gateway"):
                took = await latencies(processes[name].address, callers, calls)
                p50, p99 = ((_percentile(took, share) - 0.1) * 1000 for share in (0.5, 0.99))
                print(f"{callers:3} callers {name:16} p50 {p50:6.2f}   p99 {p99:6.2f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--kind", default="openai-compatible", help="the provider's kind (default: %(default)s)"
    )
    args = parser.parse_args()
    uvloop.run(run(args.rounds, args.kind))


if __name__ == "__main__":
    main()
