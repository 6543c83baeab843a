"""Requests to an HTTP server whose answers may be streams: connections, patience, broken lines.

What is sent and what comes back means nothing here. Failures of the transport become `Failure`;
every failure raised while an answer is read is told where it came from.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from penstock import v1

from penstock_server import __version__
from penstock_server.errors import Failure
from penstock_server.providers.http_reply import Reply

_REQUEST_ID_HEADERS = ("x-request-id", "request-id")  # OpenAI and most; Anthropic

# What httpx raises → what it means. Looked up along the exception's own bases, nearest first.
_TRANSPORT: Mapping[type[Exception], tuple[v1.ErrorReason.ValueType, str]] = {
    httpx.ConnectError: (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "cannot be reached"),
    httpx.ConnectTimeout: (v1.ERROR_REASON_PROVIDER_TIMEOUT, "did not take the connection in time"),
    httpx.TimeoutException: (v1.ERROR_REASON_PROVIDER_TIMEOUT, "did not take the request in time"),
    httpx.NetworkError: (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "cut the connection"),
    httpx.RemoteProtocolError: (v1.ERROR_REASON_PROVIDER_PROTOCOL, "does not speak HTTP"),
    httpx.ProxyError: (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "cannot be reached by the proxy"),
    httpx.TransportError: (v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "cannot be spoken to"),
    httpx.DecodingError: (v1.ERROR_REASON_PROVIDER_PROTOCOL, "sent what cannot be decompressed"),
}

# A cut connection is a RemoteProtocolError too; httpcore and h11 tell it by the text alone.
_CUT = ("Server disconnected", "peer closed connection")

# "sk-pr***1234" says too much still. Written so that long words take no longer than short ones.
_MASKED_KEY = re.compile(r"(?<![\w-])[\w-]*+\*{3,}+[\w-]*+")

# What is shorter is a stand-in such as "x" for servers that want some key, and part of words.
_SHORTEST_KEY = 8

_UNREACHABLE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, in seconds."""

    connect: float = 5.0
    """For a connection."""
    first_byte: float = 600.0
    """From the request to the first byte of the answer's body: models load and think first."""
    idle: float = 120.0
    """From any byte of the body to the next; keep-alive comments count."""


class HttpUpstream:
    """One server, by its base URL.

    Concurrency: one event loop; the client, with its pool of connections, is made by the first
    request. A connection is used by one request at a time and kept for the next one where its
    answer was read to the end. There is no limit on connections: how many requests run is the
    callers' business.

    ``what_to_do`` ends the message where nobody answers. Raises ValueError for a base URL or a key
    that cannot be right.

    Example::

        upstream = HttpUpstream("ollama", "http://localhost:11434/v1")
        async with upstream.request("GET", "/models") as reply:
            body = await reply.read()
        await upstream.close()
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str = "",
        *,
        patience: Patience | None = None,
        what_to_do: str = "",
    ) -> None:
        self._name = name
        self._base_url = _checked_url(name, base_url)
        self._key = _checked_key(name, api_key)
        self._patience = patience or Patience()
        self._what_to_do = what_to_do
        self._client: httpx.AsyncClient | None = None
        # Without TLS, an empty context will do: it trusts nobody.
        secure = self._base_url.startswith("https:")
        self._tls = _tls() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

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
            if self._client is None:
                self._client = self._new_client()
            reply = Reply(
                self._client,
                self._client.build_request(
                    method, f"{self._base_url}{path}", content=body, headers=headers
                ),
                first_byte=self._patience.first_byte,
                idle=self._patience.idle,
                broken=self._broken,
            )
            try:
                await reply.head()
                about |= self._identity(reply)
                yield reply
            finally:
                await reply.close()
        except Failure as failure:
            failure.metadata = {**about, **failure.metadata}
            raise

    def with_key(self, template: str) -> str:
        """A header's value, with the key where ``template`` says "{key}"."""
        return template.replace("{key}", self._key)

    def redact(self, text: str) -> str:
        """``text`` without the key, which some servers repeat in their complaints."""
        if len(self._key) >= _SHORTEST_KEY:
            text = text.replace(self._key, "[key]")
        return _MASKED_KEY.sub("[key]", text)

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()

    def _broken(self, error: Exception) -> Failure:
        """The failure for what httpx raised."""
        if isinstance(error, TimeoutError):
            reason, verb = v1.ERROR_REASON_PROVIDER_TIMEOUT, "fell silent for too long"
        else:
            cut = str(error).startswith(_CUT)
            kinds = (httpx.NetworkError,) if cut else type(error).__mro__
            reason, verb = next(_TRANSPORT[kind] for kind in kinds if kind in _TRANSPORT)
        message = f"provider {self._name!r} at {self._base_url} {verb}"
        # The text of other exceptions may quote what was sent.
        if str(error) and isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
            message += f" ({error})"
        if self._what_to_do and isinstance(error, _UNREACHABLE):
            message += f": {self._what_to_do}"
        return Failure(reason, self.redact(message))

    def _new_client(self) -> httpx.AsyncClient:
        headers = {"user-agent": f"penstock-server/{__version__}"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        return httpx.AsyncClient(
            headers=headers,
            # All other waiting is timed here: httpx gives a whole upload one timeout, and the
            # answer's first byte no other than the rest.
            timeout=httpx.Timeout(None, connect=self._patience.connect),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            # A redirect would take the key to wherever it points.
            follow_redirects=False,
            verify=self._tls,
            # The environment's proxy is for the world outside, not for this machine.
            trust_env=not _is_loopback(httpx.URL(self._base_url).host),
        )

    def _identity(self, reply: Reply) -> dict[str, str]:
        about = {"upstream_status": str(reply.status)}
        for header in _REQUEST_ID_HEADERS:
            if header in reply.headers:
                about["upstream_request_id"] = self.redact(reply.headers[header])
                break
        return about


@functools.cache
def _tls() -> ssl.SSLContext:
    """Whom to trust. Reading it takes a tenth of a second: once, before anything is served."""
    return httpx.create_ssl_context()


def _checked_url(name: str, base_url: str) -> str:
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL as error:
        raise ValueError(f"provider {name!r}: base_url is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"provider {name!r}: base_url must be an http(s) URL with a host")
    if url.userinfo:
        # It would show in messages and logs.
        raise ValueError(f"provider {name!r}: base_url holds a password; set api_key instead")
    if url.query or url.fragment:
        raise ValueError(f"provider {name!r}: base_url must end with its path")
    return str(url).rstrip("/")


def _checked_key(name: str, api_key: str) -> str:
    key = api_key.strip()
    # An HTTP library would refuse such a header, quoting it.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(f"provider {name!r}: the API key has a character that no key has")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
