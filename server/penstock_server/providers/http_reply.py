"""An HTTP answer that is arriving: read as the network brings it, or whole, and let go of.

Making requests belongs to ``http_upstream``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

import anyio
import httpx
from penstock import v1

from penstock_server.errors import Failure

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The longest body that is read whole."""

BROKEN = (TimeoutError, httpx.TransportError, httpx.DecodingError)
"""What waiting for an answer raises when the transport fails."""

# Read ahead of the consumer by at most this much; then the server has to wait.
_READ_AHEAD = 256 * 1024

# An answer that has said its last word ends within this many seconds, or its connection is not
# worth keeping.
_LAST_BYTES = 0.05


class Reply:
    """An answer that is arriving.

    A task of its own does all that httpx does for one request, and reads ahead of the consumer. So
    all pieces that one network read brought (a server's every event is an HTTP chunk of its own)
    lie ready together, without delaying any of them: when the consumer wakes, the task is waiting
    for the network again. And the task is only ever stopped by its scope, never by
    ``Task.cancel``: httpcore shields its closing of connections from scopes alone, and forgets a
    connection for good whose closing is cut short.

    ``first_byte`` is the longest wait, in seconds, until the body begins, ``idle`` the longest
    pause in it; ``broken`` makes the failure for one of ``BROKEN``.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        request: httpx.Request,
        *,
        first_byte: float,
        idle: float,
        broken: Callable[[Exception], Failure],
    ) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.whole = False
        """Set by the consumer once the answer has said its last word."""
        self._client = client
        self._request = request
        self._idle = idle
        self._broken = broken
        self._pieces: list[bytes] = []
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._error: Exception | None = None
        self._left = False
        self._loop = asyncio.get_running_loop()
        self._scope = anyio.CancelScope(deadline=self._loop.time() + first_byte)
        self._exchange = asyncio.create_task(self._run())

    async def head(self) -> None:
        """Wait for ``status`` and ``headers``. Raises `Failure` where they do not come."""
        while not self.status:
            if self._exchange.done():
                self._raise()
            self._arrived.clear()
            await self._arrived.wait()

    async def more(self) -> bytes:
        """What the next network read brought; b"" at the end. Raises `Failure` where it broke."""
        while not self._pieces:
            if self._exchange.done():
                self._raise()
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        pieces, self._pieces = self._pieces, []
        self._taken.set()
        return b"".join(pieces)

    async def read(self) -> bytes:
        """The whole body. More than ``MAX_BODY_BYTES`` are PROVIDER_PROTOCOL."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.more():
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise Failure(
                    v1.ERROR_REASON_PROVIDER_PROTOCOL,
                    f"the provider's answer is longer than {MAX_BODY_BYTES} bytes",
                )
        return b"".join(pieces)

    async def close(self) -> None:
        """Let the connection go: back to the pool where the answer was read to its end."""
        try:
            if self.whole:
                await asyncio.wait([self._exchange], timeout=_LAST_BYTES)
        finally:
            self._left = True
            self._scope.cancel()
            await asyncio.wait([self._exchange])

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        try:
            with self._scope:
                response = await self._client.send(self._request, stream=True)
                try:
                    self.headers, self.status = response.headers, response.status_code
                    self._arrived.set()
                    await self._read_ahead(response)
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
            if self._scope.cancelled_caught and not self._left:
                self._error = self._broken(TimeoutError())
        except BROKEN as error:
            self._error = self._broken(error)
        except asyncio.CancelledError:  # not ours: the event loop is being shut down
            self._error = self._broken(httpx.ReadError("the gateway is stopping"))
            raise
        except Exception as error:
            self._error = error
        finally:
            self._arrived.set()

    async def _read_ahead(self, response: httpx.Response) -> None:
        size = 0
        async for piece in response.aiter_bytes():
            if piece:  # a decompressor may have nothing to say yet
                self._pieces.append(piece)
                self._arrived.set()
            size += len(piece)
            if size > _READ_AHEAD:
                self._scope.deadline = math.inf  # it is not the server that is slow
                self._taken.clear()
                await self._taken.wait()
                size = 0
            self._scope.deadline = self._loop.time() + self._idle
