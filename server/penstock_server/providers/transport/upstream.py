"""Requests to an HTTP server whose answers may be streams: connections, patience, broken lines.

What is sent and what comes back means nothing here. Failures of the transport become `Failure`;
every failure raised while an answer is read is told where it came from.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import httpx2
from penstock import v1
from yarl import URL

from penstock_server import __version__
from penstock_server.errors import Failure
from penstock_server.providers.transport.credentials import Credentials
from penstock_server.providers.transport.reply import BROKEN, Reply

# OpenAI and most; Anthropic; Bedrock; Azure; Google.
_REQUEST_ID_HEADERS = (
    "x-request-id",
    "request-id",
    "x-amzn-requestid",
    "apim-request-id",
    "x-goog-request-id",
)

# What aiohttp raises → what it means. Looked up along the exception's own bases, nearest first.
_TRANSPORT: Mapping[type[BaseException], tuple[v1.ErrorReason.ValueType, str]] = {
    aiohttp.ConnectionTimeoutError: (
        v1.ERROR_REASON_PROVIDER_TIMEOUT,
        "did not take the connection in time",
    ),
    aiohttp.ClientProxyConnectionError: (
        v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
        "cannot be reached by the proxy",
    ),
    aiohttp.ClientHttpProxyError: (
        v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
        "cannot be reached by the proxy",
    ),
    aiohttp.ClientConnectorError: (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "cannot be reached"),
    aiohttp.ClientConnectionError: (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "cut the connection"),
    aiohttp.ClientResponseError: (v1.ERROR_REASON_PROVIDER_PROTOCOL, "does not speak HTTP"),
    aiohttp.ClientPayloadError: (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "cut the connection"),
    aiohttp.ClientError: (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "cannot be spoken to"),
    TimeoutError: (v1.ERROR_REASON_PROVIDER_TIMEOUT, "fell silent for too long"),
    OSError: (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "cut the connection"),
}

# A body that cannot be decompressed is a ClientPayloadError too; the text alone tells.
_UNREADABLE = re.compile(r"decod|decompress|brotli|zlib|zstd|content-encoding", re.IGNORECASE)

# "sk-pr***1234" says too much still. Written so that long words take no longer than short ones.
_MASKED_KEY = re.compile(r"(?<![\w-])[\w-]*+\*{3,}+[\w-]*+")

# What is shorter is a stand-in such as "x" for servers that want some key, and part of words.
_SHORTEST_KEY = 8

_UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

# Proxies send long headers.
_HEADER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, in seconds. There is no limit to the whole but the caller's deadline."""

    connect: float = 5.0
    """For a connection."""
    first_event: float = 600.0
    """From the request to the answer's first event: models load and think first."""
    idle: float = 120.0
    """From any byte of the answer to the next; keep-alive comments count."""


class HttpUpstream:
    """One server.

    Concurrency: one event loop; the session, with its pool of connections, is made by the first
    request. A connection is used by one request at a time and kept for the next one where its
    answer was read to the end. At most ``max_connections`` are open; who finds none waits, as
    part of ``patience.first_event``. A cancelled request closes its connection at once.

    ``what_to_do`` ends the message where nobody answers.

    Example::

        upstream = HttpUpstream("ollama", Fixed("ollama", "http://localhost:11434"))
        async with upstream.request("GET", "/api/tags") as reply:
            body = await reply.read()
        await upstream.close()
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials,
        *,
        patience: Patience | None = None,
        max_connections: int = 4096,
        what_to_do: str = "",
    ) -> None:
        self._name = name
        self._credentials = credentials
        self._patience = patience or Patience()
        self._max_connections = max_connections
        self._what_to_do = what_to_do
        self._session: aiohttp.ClientSession | None = None
        # Reading whom to trust takes a tenth of a second: before anything is served.
        secure = credentials.base_url.startswith("https:")
        self._tls: ssl.SSLContext | bool = _tls() if secure else True

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **metadata: str,
    ) -> AsyncIterator[Reply]:
        """Send a request and hand out its reply, whatever its status.

        Leaving the context before the end of the answer closes the connection, which tells the
        server to stop. Every `Failure` raised inside gets ``metadata``, the provider's name, and
        the reply's status and request id, where it has not set them itself.
        """
        about = {"provider": self._name, **metadata}
        try:
            reply = await self._send(method, path, body, headers or {})
            try:
                about |= self._identity(reply)
                yield reply
            finally:
                await reply.close()
        except Failure as failure:
            failure.metadata = {**about, **failure.metadata}
            raise

    def request_id(self, reply: Reply) -> str:
        """What the server calls the request; "" where it does not say."""
        for header in _REQUEST_ID_HEADERS:
            if header in reply.headers:
                return self.redact(reply.headers[header])
        return ""

    def redact(self, text: str) -> str:
        """``text`` without keys, which some servers repeat in their complaints."""
        for secret in self._credentials.secrets:
            if len(secret) >= _SHORTEST_KEY:
                text = text.replace(secret, "[key]")
        return _MASKED_KEY.sub("[key]", text)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        session = self._session or self._new_session()
        patience = self._patience
        asked = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(patience.first_event):
                try:
                    outgoing = await self._credentials.prepare(method, path, body, headers)
                except BROKEN:
                    raise
                except Exception as error:
                    raise self._unprepared(error) from error
                response = await session.request(
                    method,
                    outgoing.url,
                    data=outgoing.body,
                    headers=outgoing.headers,
                    # A redirect would take the key to wherever it points.
                    allow_redirects=False,
                )
        except BROKEN as error:
            raise self._broken(error) from error
        return Reply(
            response,
            asked=asked,
            first_event=patience.first_event,
            idle=patience.idle,
            broken=self._broken,
        )

    def _broken(self, error: Exception) -> Failure:
        """The failure for what aiohttp raised."""
        reason, verb = next(_TRANSPORT[kind] for kind in type(error).__mro__ if kind in _TRANSPORT)
        text = str(error)
        if isinstance(error, aiohttp.ClientPayloadError) and _UNREADABLE.search(text):
            reason, verb = v1.ERROR_REASON_PROVIDER_PROTOCOL, "sent what cannot be decompressed"
        message = f"provider {self._name!r} at {self._credentials.base_url} {verb}"
        # The text of other exceptions may quote what was sent.
        if isinstance(error, aiohttp.ClientConnectorError):
            message += f" ({error.os_error.strerror or type(error.os_error).__name__})"
        elif isinstance(error, aiohttp.ClientResponseError):
            message += f" ({error.message.splitlines()[0][:200] if error.message else 'no reason'})"
        if self._what_to_do and isinstance(error, _UNREACHABLE):
            message += f": {self._what_to_do}"
        # Out of patience: trying again would only multiply the wait. A connection is made quickly.
        out_of_patience = isinstance(error, TimeoutError) and not isinstance(error, _UNREACHABLE)
        return Failure(reason, self.redact(message), passing=False if out_of_patience else None)

    def _unprepared(self, error: Exception) -> Failure:
        """The failure for an SDK that cannot make a request: it finds no credentials, say."""
        return Failure(
            v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
            f"provider {self._name!r} has no usable credentials: "
            f"{self.redact(str(error))[:500] or type(error).__name__}",
        )

    def _new_session(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._max_connections, ssl=self._tls, ttl_dns_cache=60, keepalive_timeout=30
            ),
            headers={"user-agent": f"penstock-server/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            # All other waiting is timed here and in `Reply`.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._patience.connect),
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            # The environment's proxy is for the world outside, not for this machine.
            trust_env=not _is_loopback(URL(self._credentials.base_url).host or ""),
        )
        return self._session

    def _identity(self, reply: Reply) -> dict[str, str]:
        about = {"upstream_status": str(reply.status)}
        if request_id := self.request_id(reply):
            about["upstream_request_id"] = request_id
        return about


@functools.cache
def _tls() -> ssl.SSLContext:
    """Whom to trust: as the vendors' SDKs do (certifi, SSL_CERT_FILE, SSL_CERT_DIR)."""
    return httpx2.create_ssl_context()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
