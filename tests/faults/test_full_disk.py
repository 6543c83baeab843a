"""A disk without room for logs: nobody notices but those who would read them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import penstock
import pytest

from tests.faults.house import record, settings
from tests.faults.load import HOSTED, LOCAL, Load, learn
from tests.faults.resources import Held, descriptors, resident
from tests.faults.upstream import FaultyUpstream
from tests.support.processes import PATIENCE, children, eventually

FULL = Path("/dev/full")


@contextmanager
def gateway_without_room(upstream: FaultyUpstream) -> Iterator[tuple[int, str]]:
    """A gateway whose standard error has no room left; its process id and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "penstock_server", "--listen", address, "--log-format", "json"]
    with (
        FULL.open("w") as full,
        subprocess.Popen(
            [*command, *settings(upstream)], stdout=subprocess.DEVNULL, stderr=full
        ) as process,
        penstock.Client(address, timeout=PATIENCE) as client,
    ):

        def serving() -> bool:
            assert process.poll() is None, "the gateway ended"
            try:
                return client.health("provider/local", timeout=1) == "SERVING"
            except penstock.PenstockError:
                return False

        try:
            eventually(serving, PATIENCE)
            yield process.pid, address
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def held(pid: int, upstream: FaultyUpstream) -> Held:
    """Its tasks are not known: it would write them."""
    idle = len(upstream.connections)
    return Held(resident(pid), descriptors(pid) - idle, 0, 0, len(children(pid)))


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")
def test_no_room_for_logs(upstream: FaultyUpstream, report: Callable[[str], None]) -> None:
    """A sidecar dies meanwhile: what it says and what is said of it has no place to go either."""
    upstream.finished.clear()
    with gateway_without_room(upstream) as (pid, address):
        learn(address)
        with Load(address):
            pass
        before = held(pid, upstream)
        with Load(address) as load:
            began = time.monotonic()
            (sidecar,) = children(pid)
            os.kill(sidecar, signal.SIGKILL)
            normal = load.normal_again(began)
        seen = load.statuses(began, time.monotonic())
        hosted = load.statuses(began, time.monotonic(), HOSTED)
        eventually(lambda: descriptors(pid) - len(upstream.connections) <= before.descriptors + 3)
        after = held(pid, upstream)
        assert children(pid) != [sidecar]
        assert len(children(pid)) == 1, "one sidecar, not two"
    assert not load.wrong
    assert set(hosted) == {"OK"}
    report(f"{dict(seen)}; {LOCAL} was normal {normal:.1f} s after its sidecar was killed")
    record("disk full for logs, sidecar killed", seen, normal, "", before.row(after))
