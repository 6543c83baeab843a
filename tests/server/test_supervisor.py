"""Sidecar processes: started, watched, restarted, stopped. The processes here are real ones."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from penstock_server import supervisor
from penstock_server.supervisor import SidecarProcess

from tests.support.processes import alive, until

SLEEPER = "import sys, time; print('here I am', flush=True); time.sleep(60)"


def process(program: str) -> SidecarProcess:
    return SidecarProcess("test", [sys.executable, "-c", program])


async def test_a_killed_process_is_started_again_at_once() -> None:
    sidecar = process(SLEEPER)
    sidecar.start()
    await until(lambda: sidecar.pid and sidecar._lines)
    first, killed_at = sidecar.pid, time.monotonic()
    assert first
    os.kill(first, signal.SIGKILL)
    ended = await sidecar.exit_after(killed_at, 10)
    assert ended is not None
    assert (ended.code, ended.last_line) == (-9, "here I am")
    assert "SIGKILL" in str(ended)
    await until(lambda: sidecar.pid not in (None, first))
    second = sidecar.pid
    await sidecar.stop()
    assert second is not None
    assert not alive(second)


async def test_a_process_that_cannot_live_is_tried_less_and_less_often() -> None:
    sidecar = process("import sys; print('no such model'); sys.exit(3)")
    sidecar.start()
    await until(lambda: sidecar.crashes >= 3)
    assert sidecar.last_exit is not None
    assert (sidecar.last_exit.code, sidecar.last_exit.last_line) == (3, "no such model")
    assert str(sidecar.last_exit) == "exited with code 3; its last line was: no such model"
    assert 0 < sidecar.retry_delay <= supervisor.FIRST_BACKOFF * 2 * 1.2
    sidecar.proved()
    assert sidecar.crashes == 0
    await sidecar.stop()


async def test_a_program_that_is_not_there() -> None:
    sidecar = SidecarProcess("test", ["/nowhere/penstock"])
    sidecar.start()
    await until(lambda: sidecar.last_exit)
    assert sidecar.last_exit is not None
    assert sidecar.last_exit.code == 127
    assert "/nowhere/penstock" in sidecar.last_exit.last_line
    await sidecar.stop()


async def test_a_deaf_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_TERM_PATIENCE", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    sidecar = process(deaf + SLEEPER)
    sidecar.start()
    await until(lambda: sidecar.pid and sidecar._lines)
    pid = sidecar.pid
    await sidecar.stop()
    assert pid is not None
    assert not alive(pid)


async def test_lines_of_any_length_and_any_bytes_are_passed_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "penstock")
    program = (
        "import sys; sys.stderr.buffer.write(b'x' * 300_000 + b'\\n\\xff\\xfe\\nlast words');"
        "sys.stderr.flush(); sys.exit(1)"
    )
    sidecar = process(program)
    sidecar.start()
    await until(lambda: sidecar.last_exit)
    assert sidecar.last_exit is not None
    assert sidecar.last_exit.last_line == "last words"
    await sidecar.stop()
    assert "last words" in caplog.text
