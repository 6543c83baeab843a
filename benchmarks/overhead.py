"""What the gate, the services and forwarding cost: calls and streamed deltas a second.

Three rows, measured in turns in the same run, medians over the rounds:

- floor: a bare grpc.aio server that answers ready-made messages, no Penstock in it
- sidecar: Penstock's server with a provider that answers at once
- gateway: the same behind a gateway that forwards

Servers are processes of their own; the load is one client with a fixed number of callers. Only the
ratios mean something: ``python benchmarks/overhead.py --help``.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import uvloop
from penstock import v1

sys.path.insert(0, str(Path(__file__).parents[1]))

DELTAS = 200


def events() -> list[v1.StreamGenerateResponse]:
    """An answer of `DELTAS` words, as a stream."""
    from penstock_server.providers.assembler import Assembler

    assembler = Assembler("a", "local/echo", time.monotonic())
    said = [assembler.started()]
    for number in range(DELTAS):
        said += assembler.add("text", f"word{number} ")
    return said + assembler.complete(v1.FINISH_REASON_STOP, v1.Usage(output_tokens=DELTAS))


class FloorServicer(v1.GenerationServiceServicer):
    """Answers without any logic."""

    def __init__(self) -> None:
        self._events = events()

    async def Generate(self, request: v1.GenerateRequest, context: object) -> v1.GenerateResponse:
        """The ready-made answer."""
        return self._events[-1].completed

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: object
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        """The ready-made events."""
        for event in self._events:
            yield event


async def serve_floor(address: str) -> None:
    """A bare server."""
    server = grpc.aio.server()
    v1.add_GenerationServiceServicer_to_server(FloorServicer(), server)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


async def serve_penstock(address: str, upstream: str) -> None:
    """Penstock's server: with a provider that answers at once, or forwarding to ``upstream``."""
    from penstock_server.app import Server
    from penstock_server.config import ServerConfig
    from penstock_server.providers import Call, Events, Provider
    from penstock_server.providers.sidecar import SidecarProvider
    from penstock_server.server_settings import Log
    from penstock_server.telemetry import configure

    class Echo(Provider):
        ready = events()

        async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
            for event in self.ready:
                yield event

        async def generate(
            self, model: str, request: v1.GenerateRequest, call: Call
        ) -> v1.GenerateResponse:
            return self.ready[-1].completed

        async def list_models(self, call: Call) -> list[v1.Model]:
            return []

        async def get_model(self, model: str, call: Call) -> v1.Model:
            return v1.Model()

    configure(Log(level="warning"))
    provider = SidecarProvider("local", [upstream]) if upstream else Echo("local")
    server = Server(ServerConfig(listen=[address]), [provider])
    await server.start()
    await asyncio.Event().wait()


async def rate(work: Callable[[], Awaitable[int]], callers: int, seconds: float) -> float:
    """How much of what ``work`` counts is done in a second by so many callers at once."""
    done = 0
    end = time.perf_counter() + seconds

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < end:
            more = await work()
            done += more  # not in one line: `+=` would read `done` before it waits

    begin = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return done / (time.perf_counter() - begin)


async def measure(addresses: dict[str, str], rounds: int, seconds: float, callers: int) -> None:
    """Measure all servers in turns and print the table."""
    request = v1.GenerateRequest(model="local/echo", prompt="Hi")
    streaming = v1.StreamGenerateRequest(request=request)
    stubs = {
        name: v1.GenerationServiceStub(grpc.aio.insecure_channel(address))
        for name, address in addresses.items()
    }
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in stubs}
    for _ in range(rounds):
        for name, stub in stubs.items():

            async def unary(stub: v1.GenerationServiceStub = stub) -> int:
                await stub.Generate(request, wait_for_ready=True)  # type: ignore[misc]
                return 1

            async def stream(stub: v1.GenerationServiceStub = stub) -> int:
                call = stub.StreamGenerate(streaming, wait_for_ready=True)
                return len([None async for _ in call]) - 4  # type: ignore[attr-defined]

            found[name][0].append(await rate(unary, callers, seconds))
            found[name][1].append(await rate(stream, callers, seconds))
    floor = [statistics.median(values) for values in found["floor"]]
    print("| server | unary/s | of the floor | deltas/s | of the floor |\n|---|---|---|---|---|")
    for name, values in found.items():
        calls, deltas = (statistics.median(value) for value in values)
        shares = f"{calls / floor[0]:.2f} | {deltas:,.0f} | {deltas / floor[1]:.2f}"
        print(f"| {name} | {calls:,.0f} | {shares} |")


def main() -> None:
    """Start the servers, measure, stop them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--callers", type=int, default=16, help="calls at once")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        kind, address, upstream = args.serve
        work = serve_floor(address) if kind == "floor" else serve_penstock(address, upstream)
        uvloop.run(work)
        return
    with tempfile.TemporaryDirectory() as home:
        addresses = {name: f"unix:{home}/{name}" for name in ("floor", "sidecar", "gateway")}
        servers = []
        for name, address in addresses.items():
            upstream = addresses["sidecar"] if name == "gateway" else ""
            command = [sys.executable, __file__, "--serve", name, address, upstream]
            servers.append(subprocess.Popen(command))
        try:
            uvloop.run(measure(addresses, args.rounds, args.seconds, args.callers))
        finally:
            for server in servers:
                server.terminate()
                server.wait()


if __name__ == "__main__":
    main()
