"""What the high-level client makes of waiting: batches, and how free the event loop stays.

Three processes: a mock provider (``upstream.py``) that takes a second for each call, the real
gateway, and the client, which is this one. Two tables are printed::

    python benchmarks/client.py --markdown

- *A batch*: calls one after another (ten of them: a hundred would only take ten times as long),
  then a hundred by `LLM.batch` and by `LLM.abatch`. One after another, a hundred take a hundred
  seconds; a hundred times as fast is the limit.
- *The event loop's lag*: how much later than asked for a timer of 5 ms fires: idle; when 32 streams
  begin in the same moment, up to the first chunk of each; and while these are read (50 chunks a
  second each), a session is saved, and 8 tools that are plain functions sleep for a second each.
  asyncio's own timers are up to a millisecond late. Five rounds, all timers together.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from penstock import LLM, BasicSession, aexecute_tools, create_llm

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gateway import Process

HERE = Path(__file__).parent

T = TypeVar("T")

LATENCY = 1.0
CALLS = 100
ONE_BY_ONE = 10
STREAMS = 32
TOOLS = 8
MESSAGES = 2000
TICK = 0.005
ROUNDS = 5


class Batch(NamedTuple):
    """How long some calls took."""

    name: str
    calls: int
    seconds: float

    @property
    def ratio(self) -> float:
        """How many times as fast as one call after another, each taking `LATENCY`."""
        return self.calls * LATENCY / self.seconds


class Lag(NamedTuple):
    """How late timers were, in milliseconds."""

    name: str
    ticks: int
    p50: float
    p99: float
    max: float


async def batches(llm: LLM) -> list[Batch]:
    """The same calls in every way; blocking ones in a thread of their own."""
    prompts = [f"Test {number}" for number in range(CALLS)]
    found: list[Batch] = []

    async def time_of(name: str, calls: int, answers: Awaitable[Sequence[object]]) -> None:
        began = time.perf_counter()
        count = len(await answers)
        found.append(Batch(name, calls, time.perf_counter() - began))
        assert count == calls

    def one_by_one() -> list[object]:
        return [llm.generate(prompt) for prompt in prompts[:ONE_BY_ONE]]

    await time_of("`generate`, one after another", ONE_BY_ONE, asyncio.to_thread(one_by_one))
    for limit in (32, CALLS):

        def by_threads(limit: int = limit) -> list[object]:
            return llm.batch(prompts, max_concurrency=limit, progress=False)

        by_tasks = llm.abatch(prompts, max_concurrency=limit, progress=False)
        await time_of(f"`batch(max_concurrency={limit})`", CALLS, asyncio.to_thread(by_threads))
        await time_of(f"`abatch(max_concurrency={limit})`", CALLS, by_tasks)
    together = asyncio.gather(*(llm.agenerate(prompt) for prompt in prompts))
    await time_of("`asyncio.gather` of `agenerate`", CALLS, together)
    return found


async def watched(late: list[float], work: Awaitable[T]) -> T:
    """Do something; ``late`` gets how late a timer is meanwhile, in milliseconds."""

    async def tick() -> None:
        while True:
            wanted = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            late.append((time.perf_counter() - wanted) * 1000)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)  # the first timer runs before the work does
    try:
        return await work
    finally:
        ticking.cancel()


def lag_of(name: str, late: list[float]) -> Lag:
    """The figures."""
    late = sorted(late)
    return Lag(name, len(late), late[len(late) // 2], late[len(late) * 99 // 100], late[-1])


async def lags(llm: LLM, file: Path) -> list[Lag]:
    """Idle, then with everything going on at once."""
    session = BasicSession(llm)
    for number in range(MESSAGES):
        session.add_message("user" if number % 2 == 0 else "assistant", f"message {number} " * 20)

    async def read(begun: asyncio.Event) -> int:
        length = 0
        async for chunk in await llm.agenerate("Hi", stream=True):
            begun.set()
            length += len(chunk.content or "")
        return length

    def slow(number: int) -> int:
        time.sleep(1)
        return number

    calls = [{"name": "slow", "arguments": {"number": number}} for number in range(TOOLS)]

    async def begin() -> list[asyncio.Task[int]]:
        events = [asyncio.Event() for _ in range(STREAMS)]
        tasks = [asyncio.create_task(read(event)) for event in events]
        for event in events:
            await event.wait()
        return tasks

    async def go_on(reading: list[asyncio.Task[int]]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(session.asave(file))
            calling = group.create_task(aexecute_tools(calls, [slow]))
        assert [each["result"] for each in calling.result()] == list(range(TOOLS))
        assert all(await asyncio.gather(*reading))

    await read(asyncio.Event())  # the connection is there, everything is imported
    idle: list[float] = []
    beginning: list[float] = []
    going: list[float] = []
    for _ in range(ROUNDS):
        await watched(idle, asyncio.sleep(4))
        reading = await watched(beginning, begin())
        await watched(going, go_on(reading))
    return [
        lag_of("idle", idle),
        lag_of(f"{STREAMS} streams begin at once", beginning),
        lag_of(f"{STREAMS} streams run, an `asave`, {TOOLS} slow tools", going),
    ]


async def run(markdown: bool) -> None:
    """Measure and print."""
    processes = [Process("upstream", [str(HERE / "upstream.py"), "--latency", str(LATENCY)], None)]
    try:
        settings = {"kind": "openai-compatible", "base_url": processes[0].address}
        command = [str(HERE / "serve.py")]
        command += [f"providers.bench.{key}={value}" for key, value in settings.items()]
        processes.append(Process("gateway", command, None))
        target = processes[1].address
        with tempfile.TemporaryDirectory() as folder:
            async with create_llm("bench", "late", target=target) as late:
                await late.agenerate("Hi")
                batch = await batches(late)
            async with create_llm("bench", "spaced", target=target) as spaced:
                lag = await lags(spaced, Path(folder) / "session.json")
    finally:
        for process in processes:
            process.stop()
    before, between, after = ("| ", " | ", " |") if markdown else ("", "  ", "")

    def row(*cells: str) -> None:
        widths = (42, *[9] * (len(cells) - 1))
        padded = (f"{cell:{w}}" if n == 0 else f"{cell:>{w}}"
                  for n, (cell, w) in enumerate(zip(cells, widths, strict=True)))  # fmt: skip
        print(before + between.join(padded) + after)

    row(f"{LATENCY:g} s for each call", "calls", "seconds", "times")
    if markdown:
        print("| --- | --: | --: | --: |")
    for each in batch:
        row(each.name, f"{each.calls}", f"{each.seconds:.2f}", f"{each.ratio:.1f}")
    print()
    row("lag of the event loop, milliseconds", "p50", "p99", "max")
    if markdown:
        print("| --- | --: | --: | --: |")
    for found in lag:
        row(found.name, f"{found.p50:.2f}", f"{found.p99:.2f}", f"{found.max:.2f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", action="store_true", help="tables for documentation")
    asyncio.run(run(parser.parse_args().markdown))


if __name__ == "__main__":
    main()
