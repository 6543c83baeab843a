"""Whom a request goes to and how it proves who asks: URL and headers for each request.

Two kinds. `Fixed` knows both once and for all: a base URL and headers. `Prepared` lets a vendor's
SDK make every request, since some clouds sign them, put the model into the URL, or let tokens
expire; the SDK never sends anything. How requests travel does not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import httpx2
from yarl import URL

# The transport's own business, or the SDK's talk about itself.
_NOT_OURS = frozenset(
    {"host", "accept-encoding", "connection", "content-length", "content-type", "user-agent"}
)
_CHATTER = "x-stainless-"


class Outgoing(NamedTuple):
    """A request that is ready to be sent."""

    url: URL
    headers: Mapping[str, str]
    body: bytes | None


class Credentials(Protocol):
    """Makes requests ready to be sent."""

    @property
    def base_url(self) -> str:
        """Where the server is, for messages."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be told."""

    async def prepare(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Outgoing:
        """The request for ``path`` below the base URL."""


class Fixed:
    """A base URL and headers that never change.

    Raises ValueError for a base URL or a key that cannot be right; ``name`` is the provider's.

    Example::

        Fixed("gpu", "http://gpu:8000/v1", {"authorization": "Bearer sk-…"}, secrets=("sk-…",))
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        *,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.base_url = checked_url(name, base_url)
        self.secrets = tuple(filter(None, secrets))
        self.headers = dict(headers or {})
        # A URL is parsed once for each path, not for each request.
        self._urls: dict[str, URL] = {}

    async def prepare(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Outgoing:
        """The headers of all requests and the request's own."""
        url = self._urls.get(path)
        if url is None:
            url = URL(self.base_url + path, encoded=True)
            if len(self._urls) < 64:  # paths with models in them are many
                self._urls[path] = url
        return Outgoing(url, {**self.headers, **headers}, body)


class Prepared:
    """Lets a vendor's SDK make each request: Azure, Bedrock, Vertex.

    ``sdk`` is one of its asynchronous clients, made with ``http_client=never_sending()``: the SDK
    believes that it sends, and what it would have sent is sent by us.
    """

    def __init__(self, sdk: Any, *, secrets: tuple[str, ...] = ()) -> None:
        self._sdk = sdk
        self.secrets = tuple(filter(None, secrets))

    @property
    def base_url(self) -> str:
        """Where the SDK believes the server to be."""
        return str(self._sdk.base_url).rstrip("/")

    async def prepare(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Outgoing:
        """What the SDK would send. Its own errors (no credentials to be found) pass through."""
        call = self._sdk.get if method == "GET" else self._sdk.post
        given: dict[str, Any] = {} if body is None else {"body": json.loads(body)}
        answered = await call(
            path, cast_to=httpx2.Response, options={"headers": dict(headers)}, **given
        )
        request: httpx2.Request = answered.request
        return Outgoing(
            URL(str(request.url), encoded=True),
            plain_headers(request.headers) | {"content-type": "application/json"},
            request.content or None,
        )


class _NeverSending(httpx2.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={}, request=request)


def never_sending() -> httpx2.AsyncClient:
    """An HTTP client for an SDK that only makes requests ready."""
    return httpx2.AsyncClient(transport=_NeverSending())


def plain_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """The headers that say who asks, without the transport's and the SDK's talk about itself."""
    return {
        name.lower(): value
        for name, value in headers.items()
        if isinstance(value, str)  # an SDK marks headers that it leaves out by other things
        and name.lower() not in _NOT_OURS
        and not name.lower().startswith(_CHATTER)
    }


def checked_url(name: str, base_url: str) -> str:
    """``base_url`` without its last slash. Raises ValueError where it cannot be right."""
    try:
        url = URL(base_url.strip())
        port_is_right = url.port != 0
    except ValueError as error:
        raise ValueError(f"provider {name!r}: base_url is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or not port_is_right:
        raise ValueError(f"provider {name!r}: base_url must be an http(s) URL with a host")
    if url.user or url.password:
        # It would show in messages and logs.
        raise ValueError(f"provider {name!r}: base_url holds a password; set api_key instead")
    if url.query_string or url.fragment:
        raise ValueError(f"provider {name!r}: base_url must end with its path")
    return str(url).rstrip("/")


def checked_key(name: str, api_key: str) -> str:
    """A key without blanks around it. Raises ValueError where it cannot be one."""
    key = api_key.strip()
    # An HTTP library would refuse such a header, quoting it.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(f"provider {name!r}: the API key has a character that no key has")
    return key
