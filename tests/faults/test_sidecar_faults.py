"""A sidecar that dies, hangs, starves or dawdles under load: the gateway has a new one soon."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import penstock
import pytest

from tests.faults.house import SILENCE, House, Trial
from tests.faults.load import HOSTED, LOCAL
from tests.support.processes import alive, eventually

OUT_OF_TIME = {"DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED/PROVIDER_TIMEOUT"}
LOST = {"UNAVAILABLE/SIDECAR_LOST", "UNAVAILABLE/SIDECAR_UNAVAILABLE"}

STARTING = 25.0
"""Seconds that a sidecar may take to start on a machine that has other things to do."""


def judge(trial: Trial, expected: set[str], report: Callable[[str], None]) -> None:
    local, hosted = trial.statuses(LOCAL), trial.statuses(HOSTED)
    report(f"{dict(local)}; normal after {trial.normal:.2f} s")
    assert set(local) <= {"OK", *expected}
    assert set(hosted) == {"OK"}, "a model elsewhere is not touched by it"


def test_a_sidecar_is_killed(house: House, report: Callable[[str], None]) -> None:
    with house.trial("sidecar killed (SIGKILL)") as trial:
        trial.begins()
        os.kill(house.sidecar, signal.SIGKILL)
    judge(trial, {*LOST, *OUT_OF_TIME}, report)
    assert trial.normal < STARTING


def test_a_sidecar_stops_for_a_while(house: House, report: Callable[[str], None]) -> None:
    """Shorter than the gateway's patience: nobody is told anything, all wait."""
    first = house.sidecar
    with house.trial("sidecar hung (SIGSTOP) for 2 s") as trial:
        trial.begins()
        os.kill(first, signal.SIGSTOP)
        time.sleep(2)  # the fault's length
        os.kill(first, signal.SIGCONT)
        trial.ends()
    judge(trial, set(), report)
    assert house.sidecar == first


def test_a_sidecar_hangs_for_ever(house: House, report: Callable[[str], None]) -> None:
    first = house.sidecar
    with house.trial("sidecar hung (SIGSTOP) for good") as trial:
        trial.begins()
        os.kill(first, signal.SIGSTOP)
        gone = eventually(lambda: not alive(first), patience=4 * SILENCE)
        trial.note = f"given up after {gone:.1f} s"
    judge(trial, {*LOST, *OUT_OF_TIME}, report)
    assert house.sidecar != first
    assert gone > SILENCE * 0.75
    assert trial.normal < gone + STARTING


def test_a_sidecar_is_slow_to_start(house: House, report: Callable[[str], None]) -> None:
    with house.trial("sidecar killed, its successor slow to start") as trial:
        trial.begins()
        house.slow.touch()
        os.kill(house.sidecar, signal.SIGKILL)
        time.sleep(5)  # the fault's length
        house.slow.unlink()
        trial.ends()
    judge(trial, {*LOST, *OUT_OF_TIME}, report)
    assert trial.normal < STARTING


@pytest.fixture
def starved(house: House) -> Iterator[int]:
    """A sidecar whose address space may grow no more; its successor knows no such limit."""
    pid = house.sidecar
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + (2 << 20)
    before = resource.prlimit(pid, resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))
    yield pid
    if alive(pid):
        resource.prlimit(pid, resource.RLIMIT_AS, before)


def test_a_sidecar_out_of_memory(house: House, starved: int, report: Callable[[str], None]) -> None:
    """A large request wants what the kernel does not give; steady callers want nothing new.

    Where gRPC itself has no memory for the message, it says UNKNOWN, and the gateway that this is
    no sidecar's answer; where the process ends of it, the call was lost.
    """
    with (
        house.trial("sidecar out of memory (RLIMIT_AS)") as trial,
        penstock.Client(house.process.address, options={"grpc.enable_retries": 0}) as client,
    ):
        trial.begins()
        with pytest.raises(penstock.PenstockError) as caught:
            client.generate("water " * (4 << 20), model=LOCAL, timeout=20)
        told = f"{caught.value.code.name}/{caught.value.reason}"
        trial.note = f"the large request: {told}, {'alive' if alive(starved) else 'died of it'}"
    report(f"the large request: {told}: {caught.value.message[:200]}")
    judge(trial, {*LOST, *OUT_OF_TIME, "INTERNAL/ENGINE_FAILURE"}, report)
