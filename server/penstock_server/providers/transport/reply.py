"""An HTTP answer that is arriving: read as the network brings it, or whole, and let go of.

Making requests belongs to ``upstream``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import aiohttp
from penstock import v1

from penstock_server.errors import Failure

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The longest body that is read whole."""

BROKEN = (TimeoutError, aiohttp.ClientError, OSError)
"""What waiting for an answer raises when the transport fails."""

# An answer that has said its last word ends within this many seconds, or its connection is not
# worth keeping.
_LAST_BYTES = 0.05


class Reply:
    """An answer that is arriving.

    ``first_event`` is how many seconds from ``asked`` (on the event loop's clock) the answer has
    until somebody says `begun`, ``idle`` how long it may be silent after that; ``broken`` makes
    the failure for one of ``BROKEN``.

    Concurrency: one reader, in the task that asked. A single timer watches over all its waiting
    and is looked at only when it fires: a read costs no timer of its own. Where the reader is
    slow, aiohttp stops reading from the socket, and the server has to wait.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        asked: float,
        first_event: float,
        idle: float,
        broken: Callable[[Exception], Failure],
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.whole = False
        """Set by the reader once the answer has said its last word."""
        self._response = response
        self._content = response.content
        self._idle = idle
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._until: float | None = asked + first_event
        self._heard = asked
        self._waiting = False
        self._watch = self._loop.call_at(asked + min(first_event, idle), self._look)

    def begun(self) -> None:
        """The answer has begun: from now on only silence counts."""
        self._until = None
        self._heard = self._loop.time()

    async def more(self) -> bytes:
        """What the next network read brought; b"" at the end. Raises `Failure` where it broke."""
        content = self._content
        self._waiting = True
        try:
            piece = await content.readany()
        except BROKEN as error:
            # What came in the same moment as the end is still there, behind the exception.
            if rest := content._read_nowait(-1):
                return rest
            raise self._broken(error) from error
        finally:
            self._waiting = False
        self._heard = self._loop.time()
        return piece

    async def read(self) -> bytes:
        """The whole body. More than ``MAX_BODY_BYTES`` are PROVIDER_PROTOCOL."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.more():
            self._until = None
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise Failure(
                    v1.ERROR_REASON_PROVIDER_PROTOCOL,
                    f"the provider's answer is longer than {MAX_BODY_BYTES} bytes",
                )
        self.whole = True
        return b"".join(pieces)

    async def close(self) -> None:
        """Let the connection go: back to the pool where the answer was read to its end."""
        self._watch.cancel()
        try:
            if self.whole and not self._content.is_eof():
                async with asyncio.timeout(_LAST_BYTES):
                    await self._content.readany()
        except BROKEN:
            pass  # all that mattered has been said
        finally:
            # At the end of an answer aiohttp has put the connection back; elsewhere this closes it.
            self._response.close()

    def _look(self) -> None:
        """Is the wait too long?"""
        now = self._loop.time()
        end = self._heard + self._idle if self._until is None else self._until
        if not self._waiting and end <= now:
            end = now + self._idle  # it is not the server that is slow
            self._heard = now
        if end > now:
            self._watch = self._loop.call_at(min(end, now + self._idle), self._look)
        else:
            self._content.set_exception(TimeoutError())
