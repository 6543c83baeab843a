"""A server's process: signals, the event loop, descriptors, and the configuration taken anew.

The same for gateway and sidecar; what is served is ``app``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from penstock_server.allocator import keep_small
from penstock_server.app import Server
from penstock_server.assembly import Assembly
from penstock_server.config import ServerConfig
from penstock_server.listener import BindError
from penstock_server.reload import Reloader, terminal_gone
from penstock_server.telemetry import log

if TYPE_CHECKING:
    pass


ReadyHook = Callable[[Server], None]


def run(
    config: ServerConfig,
    make: Callable[[], Assembly],
    *,
    remake: Callable[[], Assembly] | None = None,
    files: Sequence[Path] = (),
    on_ready: ReadyHook | None = None,
    linked: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT, and return the process's exit code.

    ``make`` is called on the running loop, and ``on_ready`` once some provider can answer;
    ``linked`` is as in `Server`. ``remake`` is called when SIGHUP comes or one of ``files`` has
    changed: what it makes takes the other's place. It raises `ConfigError` to leave that as it is.
    """

    def server() -> Server:
        made = make()
        return Server(
            config,
            made.providers,
            aliases=made.aliases,
            linked=linked,
            routes=made.routes,
            door=made.door,
            ledger=made.ledger,
        )

    _warn_of_strangers(config)
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(server, remake, files, on_ready))


def _warn_of_strangers(config: ServerConfig) -> None:
    """What the configuration was told to allow, and is seldom meant."""
    exposed = ",".join(config.exposed)
    if exposed and not config.identifies:
        log(logging.WARNING, "everybody who reaches it may call this server", address=exposed)
    elif exposed and not config.tls.cert:
        log(logging.WARNING, "tokens and prompts travel without TLS", address=exposed)


def _raise_descriptor_limit() -> None:
    """A call needs two sockets, and the usual limit of 1,024 is soft: take all that is allowed."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _serve(
    make_server: Callable[[], Server],
    remake: Callable[[], Assembly] | None,
    files: Sequence[Path],
    on_ready: ReadyHook | None,
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = make_server()

    def on_signal() -> None:
        if stop.is_set():
            server.hurry()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await server.start()
    except BindError as error:
        log(logging.ERROR, str(error))
        return 1
    log(logging.INFO, "listening", address=",".join(server.addresses))
    tasks = [asyncio.create_task(_announce(server, on_ready)), asyncio.create_task(keep_small())]
    if remake is not None:
        tasks.append(_reloading(server, remake, files, on_signal))
    await stop.wait()
    for task in tasks:
        task.cancel()
    log(logging.INFO, "stopping")
    await server.stop()
    log(logging.INFO, "stopped")
    return 0


def _reloading(
    server: Server,
    remake: Callable[[], Assembly],
    files: Sequence[Path],
    stop: Callable[[], None],
) -> asyncio.Task[None]:
    async def reload() -> None:
        await server.replace(remake())

    reloader = Reloader(reload, files)
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: stop() if terminal_gone() else reloader.ask()
        )
    return asyncio.create_task(reloader.run())


async def _announce(server: Server, on_ready: ReadyHook | None) -> None:
    await server.health.settled()
    # What start-up made stays: looking at it again in every collection costs tens of milliseconds
    # of pause.
    gc.collect()
    gc.freeze()
    log(logging.INFO, "ready", providers=",".join(server.health.healthy()) or "none")
    if on_ready is not None:
        on_ready(server)
