"""A real gateway for the benchmarks: prints its address alone once it can answer, and the
number of its asyncio tasks on SIGUSR1.

``python benchmarks/serve.py providers.bench.kind=openai-compatible providers.bench.base_url=…``
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from penstock_server import config, gateway, telemetry
from penstock_server.app import Server
from penstock_server.process import run


def _count(number: int, frame: object) -> None:
    """Tell how many asyncio tasks there are, between two steps of the running loop."""
    print(len(asyncio.all_tasks()), flush=True)


def _say(server: Server) -> None:
    print(server.addresses[0], flush=True)


def main(assignments: list[str]) -> int:
    """Serve what the assignments configure."""
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    flags = [word for assignment in assignments for word in ("--set", assignment)]
    args = parser.parse_args(["--listen", "127.0.0.1:0", *flags])
    settings = config.load(config.GatewayConfig, args, {}, "PENSTOCK_")
    telemetry.configure(settings.log)
    signal.signal(signal.SIGUSR1, _count)
    return run(settings, lambda: gateway.Gateway({}).assemble(settings), on_ready=_say)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
