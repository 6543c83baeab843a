"""What the wire does not show: the network left alone, nothing printed, a prompt given up."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.processes import TINY

# In a process of its own, since transformers looks for torch once, when it is imported.
_PROGRAM = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError(f"the network was touched: {args}")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
sys.modules["torch"] = None

from penstock import v1
from penstock_mlx.backend import MLXBackend
from penstock_server.local.command import ModelSpec
from penstock_server.local.job import Job

progress = []
backend = MLXBackend(ModelSpec(sys.argv[1], threads=1, dtype="bfloat16", context_length=1_000))
loaded = backend.load(lambda share, stage: progress.append(share))
assert progress == sorted(progress) and 0.8 < progress[-1] <= 0.9
assert (loaded.dtype, loaded.context_length) == ("bfloat16", 1_000)

class Impatient(Job):
    looks = 0

    @property
    def cancelled(self):
        self.looks += 1
        return self.looks > 2  # once before the prompt, once after its first part

    @cancelled.setter
    def cancelled(self, value):
        pass

tokens = []
ids = loaded.tokenizer.encode_chat([{"role": "user", "content": "water " * 600}])
job = Impatient(ids, loaded.tokenizer.text_stream(), v1.Sampling(), limit=9, end=loaded.end)
backend.decode(job, lambda token: bool(tokens.append(token)))
assert job.looks == 3 and not tokens

job = Job(ids[:20], loaded.tokenizer.text_stream(), v1.Sampling(), limit=9)
backend.decode(job, lambda token: tokens.append(token) or len(tokens) == 4)
assert len(tokens) == 4  # the next answer is not touched by it
backend.unload()
"""


def test_a_directory_never_touches_the_network_nor_prints() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM, str(TINY)],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if "OpenBLAS" not in line]
    assert (done.returncode, done.stdout, said) == (0, "", [])
