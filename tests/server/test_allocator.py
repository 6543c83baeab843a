"""Memory that was freed goes back to the system, in a process of its own: it is the process's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

PROGRAM = """
import asyncio, ctypes
from penstock_server import allocator

allocator.INTERVAL = 0.05
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = (ctypes.c_void_p,)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

async def main():
    keeping = asyncio.create_task(allocator.keep_small())
    await asyncio.sleep(0.2)
    begin = resident()
    # Every other block stays for a while, so that nothing goes back by itself.
    blocks = [libc.malloc(60_000) for _ in range(4000)]
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    most = resident()
    for block in blocks[:-1]:
        libc.free(block)
    held = resident()
    for _ in range(100):
        await asyncio.sleep(0.05)
        if resident() < begin + 60:
            break
    print(begin, most, held, resident())
    keeping.cancel()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_is_kept_for_nothing_is_given_back(report: Callable[[str], None]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    begin, most, held, after = map(int, done.stdout.split())
    report(f"{begin} MiB, with large messages {most}, freed {held}, given back {after}")
    assert held > begin + 100, "the allocator keeps what was freed"
    assert after < begin + 60
