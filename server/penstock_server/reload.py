"""The configuration, taken anew while the server runs: on SIGHUP, and when its file changes.

It is taken whole or not at all. What is wrong with a new one is told in the log, and the one before
stays. Calls that run are not touched: they keep what they began with.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from penstock_server.config import ConfigError
from penstock_server.telemetry import log, logger

_INTERVAL = 1.0
"""How often the file is looked at, in seconds."""

Stamp = tuple[int, int, int]


class Reloader:
    """Calls ``reload`` when it is asked to, and when one of ``files`` has changed.

    ``reload`` puts the new configuration in place, or raises `ConfigError` and leaves everything as
    it was.

    Example::

        reloader = Reloader(reload, [Path("penstock.toml")])
        loop.add_signal_handler(signal.SIGHUP, reloader.ask)
        await reloader.run()  # until it is cancelled
    """

    def __init__(self, reload: Callable[[], Awaitable[None]], files: Sequence[Path]) -> None:
        self._reload = reload
        self._files = files
        self._asked = asyncio.Event()
        self._seen = self._stamps()

    def ask(self) -> None:
        """Have it taken anew soon, whether or not a file has changed."""
        self._asked.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._asked.wait()
            stamps = self._stamps()
            if not self._asked.is_set() and stamps == self._seen:
                continue
            self._asked.clear()
            self._seen = stamps
            try:
                await self._reload()
            except ConfigError as error:
                why = "; ".join(str(error).splitlines())
                log(logging.ERROR, "configuration refused; the one before stays", why=why)
            except Exception:  # a fault of ours must not end the watching without a word
                logger.exception("a fault of Penstock's own, in taking the configuration anew")
            else:
                log(logging.INFO, "configuration taken anew")

    def _stamps(self) -> list[Stamp | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> Stamp | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def terminal_gone() -> bool:
    """Whether the terminal that the server was started from has been closed, which sends SIGHUP,
    too."""
    try:
        import termios
    except ImportError:  # Windows has neither
        return False
    if sys.__stderr__ is None:
        return False
    try:
        termios.tcgetattr(sys.__stderr__.fileno())
    except termios.error as error:
        return bool(error.args[0] != errno.ENOTTY)  # that one never was a terminal
    except ValueError:
        return False
    return False
