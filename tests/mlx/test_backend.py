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
from penstock_server.local.backend import written
from penstock_server.local.command import ModelSpec
from penstock_server.local.job import Job

progress = []
backend = MLXBackend(ModelSpec(sys.argv[1], threads=1, dtype="bfloat16", context_length=1_000))
loaded = backend.load(lambda share, stage: progress.append(share))
assert progress == sorted(progress) and 0.8 < progress[-1] < 0.95
assert (loaded.dtype, loaded.context_length) == ("bfloat16", 1_000)

ids = loaded.tokenizer.encode_chat([{"role": "user", "content": "water " * 600}])
job = Job(ids, loaded.tokenizer.text_stream(), v1.Sampling(), limit=9, end=loaded.end)
assert backend.join(job)
assert not [*backend.step(), *backend.step()]  # parts of a long prompt
stats = v1.EngineStats()
backend.measure(stats)
assert stats.kv_cache_bytes > 0 and stats.weights_bytes > 1_000_000
backend.leave(job)
backend.measure(stats)
assert stats.kv_cache_bytes == 0 and stats.prefix_cache_bytes == 0

job = Job(ids[:20], loaded.tokenizer.text_stream(), v1.Sampling(), limit=9)
assert len(list(written(backend, job, 4))) == 4
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
