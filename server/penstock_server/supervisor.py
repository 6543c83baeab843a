"""Sidecar processes: start, watch, restart, stop. What they say over gRPC is not known here.

Processes are started by exec and never by fork, since gRPC does not survive a fork. Each holds the
reading end of a pipe whose writing end is the gateway's alone: however the gateway dies, the
kernel closes it, the sidecar reads the end of file and exits. No orphan is left.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from penstock_server.telemetry import log, relay

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
STABLE_AFTER = 30.0
"""A process that ran this many seconds is started again at once when it ends."""

_TERM_PATIENCE = 10.0
_LINES_KEPT = 20
_LONGEST_LINE = 2_000


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: its exit code (negative: the signal) and its last words."""

    code: int
    last_line: str
    at: float

    def __str__(self) -> str:
        how = f"exited with code {self.code}"
        if self.code < 0:
            with suppress(ValueError):
                how = f"was killed by {signal.Signals(-self.code).name}"
        return f"{how}; its last line was: {self.last_line}" if self.last_line else how


class SidecarProcess:
    """Keeps one sidecar process running.

    ``name`` is the provider's, for the log; ``command`` and ``env`` what is executed. A process
    that ends is started again: at once after a stable run, else after a pause that doubles from
    `FIRST_BACKOFF` to `LONGEST_BACKOFF`, with jitter.

    Example::

        process = SidecarProcess("local", [sys.executable, "-m", "penstock_hf", ...])
        process.start()
        await process.stop()
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._ended = asyncio.Event()
        self._retry_at = 0.0
        self.starts = 0
        """How often it was started."""
        self.crashes = 0
        """How often it ended in a row without a stable run or `proved` in between."""
        self.last_exit: Exit | None = None

    @property
    def pid(self) -> int | None:
        """The running process's id; None while there is none."""
        return self._process.pid if self._process else None

    @property
    def retry_delay(self) -> float:
        """Seconds until the next start; 0 while a process runs."""
        return 0.0 if self._process else max(0.0, self._retry_at - time.monotonic())

    def start(self) -> None:
        """Begin to keep it running."""
        self._task = asyncio.create_task(self._keep_running())

    def proved(self) -> None:
        """Its health was seen to be good: earlier crashes no longer count."""
        self.crashes = 0

    def kill(self) -> None:
        """End the running process at once; it is started again like one that died by itself."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def exit_after(self, moment: float, patience: float) -> Exit | None:
        """How it ended, if it did since ``moment`` (monotonic) or does within ``patience`` s.

        A lost connection is noticed before the process is reaped, so that asking at once
        would come too early.
        """
        if self.last_exit is None or self.last_exit.at < moment:
            self._ended.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._ended.wait()
        if self.last_exit is not None and self.last_exit.at >= moment:
            return self.last_exit
        return None

    async def stop(self) -> None:
        """Stop it: SIGTERM, and SIGKILL where that does not help."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_TERM_PATIENCE):
                await _relay(process, self)
                await process.wait()
        except TimeoutError:
            log(logging.WARNING, "sidecar does not stop; killing it", sidecar=self.name)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _keep_running(self) -> None:
        while True:
            started = time.monotonic()
            try:
                code = await self._run_once()
            except OSError as error:  # no such program, out of processes, ...
                code = 127
                self._lines.append(f"cannot start {self._command[0]}: {error}")
            if time.monotonic() - started >= STABLE_AFTER:
                self.crashes = 0
            last = next((line for line in reversed(self._lines) if line.strip()), "")
            self.last_exit = Exit(code, last, time.monotonic())
            self._ended.set()
            pause = self._pause()
            self._retry_at = time.monotonic() + pause
            self.crashes += 1
            log(
                logging.ERROR,
                f"sidecar {self.last_exit}",
                sidecar=self.name,
                restarting_in=round(pause, 2),
            )
            await asyncio.sleep(pause)

    def _pause(self) -> float:
        if self.crashes == 0:
            return 0.0
        backoff = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** (self.crashes - 1))
        return backoff * random.uniform(0.8, 1.2)

    async def _run_once(self) -> int:
        self._lines.clear()
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,  # the pipe that ends with us
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(os.environ if self._env is None else self._env),
            start_new_session=True,  # Ctrl-C is for the gateway, which stops it in its turn
        )
        self.starts += 1
        log(logging.INFO, "sidecar started", sidecar=self.name, pid=process.pid)
        await _relay(process, self)
        code = await process.wait()
        self._process = None
        return code

    def heard(self, line: str) -> None:
        """Pass on a line that the process wrote, and keep it as its last words."""
        self._lines.append(_said(line))
        relay(line, sidecar=self.name)


def _said(line: str) -> str:
    """What a line says: the message, where it is a line of a JSON log."""
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(line)["message"])
    return line


async def _relay(process: asyncio.subprocess.Process, owner: SidecarProcess) -> None:
    """Pass on what the process writes, until it closes its output.

    Not by ``readline``, which gives up on a line longer than its buffer.
    """
    assert process.stdout is not None
    rest = b""
    while chunk := await process.stdout.read(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            owner.heard(line.decode("utf-8", "replace")[:_LONGEST_LINE])
        rest = rest[-_LONGEST_LINE:]
    if rest:
        owner.heard(rest.decode("utf-8", "replace"))
