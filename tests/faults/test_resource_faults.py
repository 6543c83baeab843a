"""Memory, descriptors, connections and disks that are used up: the gateway answers on."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import penstock
from penstock import v1

from tests.faults.connections import PREFACE
from tests.faults.house import UNREAD, House
from tests.faults.load import HOSTED, LOCAL
from tests.faults.resources import descriptors, resident
from tests.support.processes import eventually

MIB = 1024 * 1024


def test_large_bodies(house: House, report: Callable[[str], None]) -> None:
    body, at_once = 60 * MIB, 4
    with (
        house.trial(
            f"{at_once} bodies of {body // MIB} MiB at once", deadlines={HOSTED: 20, LOCAL: 20}
        ) as trial,
        penstock.Client(house.process.address, timeout=60) as client,
    ):
        trial.begins()
        prompt = "say 7 3 " + "x" * body
        ask = lambda _: penstock.text_of(  # noqa: E731
            client.generate(prompt, model="patient/any")
        )
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(ask, range(at_once)))
        house.upstream.finished.pop(7)
        most = resident(house.process.pid)
        trial.ends()
    report(f"{most:.0f} MiB right after")
    assert answers == ["7.0 7.1 7.2"] * at_once
    assert house.upstream.largest > body
    # Copying such bodies holds up the event loop, on slow machines for as long as the provider
    # may take here (2 s).
    assert set(trial.seen) <= {"OK", "DEADLINE_EXCEEDED/PROVIDER_TIMEOUT"}
    assert trial.seen["OK"] >= 0.95 * trial.seen.total()


def test_callers_who_never_read(house: House, report: Callable[[str], None]) -> None:
    callers = 20
    flood = v1.GenerateRequest(model=HOSTED, prompt="say on and on")
    upstream, pid = house.upstream, house.process.pid
    with house.trial(f"{callers} callers who never read") as trial, ExitStack() as stack:
        trial.begins()
        stubs = [
            v1.GenerationServiceStub(stack.enter_context(grpc.insecure_channel(address)))
            for address in [house.process.address] * 2
        ]
        calls = [
            stubs[n % 2].StreamGenerate(v1.StreamGenerateRequest(request=flood))
            for n in range(callers)
        ]
        time.sleep(UNREAD / 2)
        written, memory = upstream.written, resident(pid)
        assert sum(c.flooding for c in upstream.connections) == callers
        time.sleep(UNREAD / 4)
        more = upstream.written - written
        growth = resident(pid) - memory
        took = eventually(lambda: not any(c.flooding for c in upstream.connections))
        trial.note = f"ended after {UNREAD * 0.75 + took:.1f} s"
        trial.ends()
        ended = {_status(call) for call in calls}
    report(
        f"back-pressure let {written / callers / MIB:.1f} MiB through for each, then {more} bytes; "
        f"memory {growth:+.1f} MiB meanwhile; {trial.note} with {ended}"
    )
    assert more == 0
    assert growth < 8
    assert ended == {grpc.StatusCode.CANCELLED}
    assert set(trial.seen) == {"OK"}


def _status(call: Any) -> grpc.StatusCode:
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass
    code: grpc.StatusCode = call.code()
    return code


@contextmanager
def connections(address: str, count: int) -> Iterator[int]:
    """Idle connections held by another process; how many the server has greeted."""
    command = [sys.executable, "-m", "tests.faults.connections", address, str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_ten_thousand_connections(house: House, report: Callable[[str], None]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 500)
    # gRPC keeps some of what a first crowd took, once: 6 KiB for each connection.
    with connections(house.process.address, count):
        pass
    eventually(lambda: descriptors(house.process.pid) < 100)
    with house.trial(f"{count:,} idle connections") as trial:
        trial.begins()
        before = resident(house.process.pid)
        begun = time.monotonic()
        with connections(house.process.address, count) as greeted:
            took = time.monotonic() - begun
            memory = resident(house.process.pid) - before
            begun = time.monotonic()
            with penstock.Client(house.process.address, timeout=10) as client:
                answer = penstock.text_of(client.generate("say 7 3", model=HOSTED))
            newcomer = time.monotonic() - begun
            time.sleep(1)  # steady load, with all of them there
        house.upstream.finished.pop(7)
        trial.ends()
    report(
        f"{greeted:,} greeted in {took:.1f} s, {memory / greeted * 1024:.0f} KiB each; a new "
        f"caller's answer took {newcomer * 1000:.0f} ms"
    )
    assert greeted == count
    assert answer == "7.0 7.1 7.2"
    assert set(trial.seen) == {"OK"}


def test_no_descriptors_left(house: House, report: Callable[[str], None]) -> None:
    """Callers take all that there are; those who are connected are served, and then all again."""
    pid = house.process.pid
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with house.trial("no file descriptors left") as trial, ExitStack() as stack:
        trial.begins()
        limit = descriptors(pid) + 30
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, usual[1]))
        stack.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, usual)
        host, _, port = house.process.address.rpartition(":")
        crowd = [
            stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(100)
        ]
        for one in crowd:
            one.sendall(PREFACE)
        eventually(lambda: descriptors(pid) >= limit - 1)
        time.sleep(3)  # the fault's length
        for one in crowd:
            one.close()
        gone = time.monotonic()
        with penstock.Client(house.process.address, timeout=20) as client:
            assert client.generate("say 7 3", model=HOSTED).message.parts
        newcomer = time.monotonic() - gone
        house.upstream.finished.pop(7)
        trial.ends()
    report(
        f"{dict(trial.seen)}; a new caller was answered {newcomer:.2f} s after the crowd had gone"
    )
    assert set(trial.seen) <= {"OK", "UNAVAILABLE/PROVIDER_UNAVAILABLE"}
    assert trial.normal < 5
