"""The gRPC server itself, made anew where it falls: listening goes on, and running calls with it.

gRPC's own loop that takes calls ends for good at what it did not expect; a path that is not UTF-8
is enough (seen in grpcio 1.85), and anybody can send one. The process would live on and take no
more calls. So the loop is watched. What is served is ``app``'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence

import grpc

from penstock_server.telemetry import log

# How often the loop is looked after, in seconds.
_GLANCE = 0.1

# The fallen server's socket is closed a moment later, and a Unix socket's file goes with it.
_SETTLING = 0.2


class BindError(Exception):
    """An address cannot be listened on."""


class Listener:
    """A gRPC server on some addresses.

    ``make`` makes one that knows its services and no address, ``credentials`` are for all addresses
    but Unix sockets, and ``socket_mode`` is those sockets' permissions. A fallen server's running
    calls are finished; only then is it destroyed.
    """

    def __init__(
        self,
        make: Callable[[], grpc.aio.Server],
        credentials: grpc.ServerCredentials | None,
        socket_mode: int = 0o600,
    ) -> None:
        self._socket_mode = socket_mode
        self._make = make
        self._credentials = credentials
        self._server = make()
        self._watching: asyncio.Task[None] | None = None
        self._fallen: set[asyncio.Task[None]] = set()
        self.addresses: list[str] = []

    async def start(self, addresses: Sequence[str]) -> None:
        """Listen. Raises `BindError` where an address cannot be had."""
        self.addresses = [self._bind(address) for address in addresses]

    async def serve(self) -> None:
        """Take calls from now on."""
        await self._server.start()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self, grace: float) -> None:
        """Take no more calls; those that run have so many seconds."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._server.stop(grace)
        for task in self._fallen:
            task.cancel()
        await asyncio.gather(*self._fallen, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            try:
                # Raises what the loop ended by, where it did.
                if not await self._server.wait_for_termination(_GLANCE):
                    return
            except Exception as error:
                log(logging.WARNING, "listening anew", because=type(error).__name__)
                await self._replace()

    async def _replace(self) -> None:
        burying = asyncio.create_task(_bury(self._server))
        self._fallen.add(burying)
        burying.add_done_callback(self._fallen.discard)
        while True:
            await asyncio.sleep(_SETTLING)
            self._server = self._make()
            try:
                for address in self.addresses:
                    self._bind(address)
            except BindError as error:
                log(logging.WARNING, str(error))
            else:
                break
        await self._server.start()

    def _bind(self, address: str) -> str:
        unix = address.startswith("unix:")
        try:
            with _created_with(self._socket_mode if unix else 0o777):
                port = (
                    self._server.add_secure_port(address, self._credentials)
                    if self._credentials and not unix
                    else self._server.add_insecure_port(address)
                )
        except RuntimeError as error:
            raise BindError(
                f"cannot listen on {address}: is another server there? "
                f"Choose another address with --listen. ({error})"
            ) from None
        if unix:
            return address
        return f"{address.rpartition(':')[0]}:{port}"


@contextlib.contextmanager
def _created_with(mode: int) -> Iterator[None]:
    """Files that are made meanwhile have no other permissions than these.

    The umask is the whole process's, but to change a socket's mode once it is there would be too
    late for whoever connects at once.
    """
    if mode == 0o777:
        yield
        return
    former = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(former)


async def _bury(fallen: grpc.aio.Server) -> None:
    """Free a server once its last call has ended; at once where this is cancelled."""
    try:
        with contextlib.suppress(Exception):
            await fallen.wait_for_termination()
    finally:
        await fallen.stop(None)
