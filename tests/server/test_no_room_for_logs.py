"""Lines for which standard error has no room are lost, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")

PROGRAM = """
import logging, os, sys
from penstock_server import telemetry
from penstock_server.server_settings import Log

telemetry.configure(Log(format=sys.argv[1]))
for n in range(1000):
    telemetry.log(logging.INFO, "a line", number=n)
    telemetry.relay("a sidecar's line", sidecar="local")
    telemetry.relay('{"message": "of a JSON log"}', sidecar="local")
print("here I am", flush=True)
os._exit(0)  # Python itself would complain of what it could not write
"""


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("form", ["human", "json"])
def test_logs_without_room(form: str) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, form],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, "here I am\n")
