"""The transport itself: nothing that arrived is lost, and patience ends when it should."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from penstock_server.errors import Failure
from penstock_server.providers.transport.credentials import Fixed, Prepared, never_sending
from penstock_server.providers.transport.upstream import HttpUpstream, Patience

from tests.providers.upstream import Script, Upstream, serving


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as running:
        yield running


def connected(upstream: Upstream, patience: Patience | None = None, limit: int = 9) -> HttpUpstream:
    return HttpUpstream("up", Fixed("up", upstream.url), patience=patience, max_connections=limit)


def waits(pause: float, times: int) -> list[float | bytes]:
    """Comments that keep a connection alive."""
    pieces: list[float | bytes] = []
    for _ in range(times):
        pieces += [pause, b": wait\n\n"]
    return pieces


async def read_all(http: HttpUpstream) -> bytes:
    pieces = b""
    async with http.request("POST", "/x", b"{}") as reply:
        while piece := await reply.more():
            pieces += piece
    return pieces


async def test_what_came_in_the_same_moment_as_the_end_is_not_lost(upstream: Upstream) -> None:
    """The loop is held up, so that data and the cut are there at once when the reader looks."""
    http = connected(upstream)
    go = asyncio.Event()
    upstream.will(Script([b"first ", go, b"second ", b"third"], ending="cut", together=True))
    heard = b""
    async with http.request("POST", "/x", b"{}") as reply:
        heard += await reply.more()
        go.set()
        await upstream.down_to(0)
        time.sleep(0.05)  # noqa: ASYNC251 # the network goes on, this loop does not
        with pytest.raises(Failure, match="cut the connection"):
            while True:
                heard += await reply.more()
    assert heard == b"first second third"
    await http.close()


async def test_comments_do_not_count_as_the_first_event(upstream: Upstream) -> None:
    http = connected(upstream, Patience(first_event=0.3, idle=5))
    upstream.otherwise = Script([b": wait\n\n", *waits(0.05, 30)])
    started = time.monotonic()
    with pytest.raises(Failure, match="fell silent") as caught:
        await read_all(http)
    assert 0.25 < time.monotonic() - started < 1
    assert caught.value.reason_name == "PROVIDER_TIMEOUT"
    assert caught.value.passing is False, "trying again would multiply the wait"
    await http.close()


async def test_after_the_first_event_only_silence_counts(upstream: Upstream) -> None:
    http = connected(upstream, Patience(first_event=0.3, idle=0.4))
    upstream.will(Script([b"data: 1\n\n", *waits(0.15, 4)], ending="hold"))
    heard = b""
    started = time.monotonic()
    with pytest.raises(Failure, match="fell silent"):
        async with http.request("POST", "/x", b"{}") as reply:
            while True:
                heard += await reply.more()
                reply.begun()
    assert heard.count(b"wait") == 4
    assert 0.9 < time.monotonic() - started < 1.8
    await upstream.down_to(0)
    await http.close()


async def test_a_slow_reader_is_not_a_silent_server(upstream: Upstream) -> None:
    http = connected(upstream, Patience(first_event=0.2, idle=0.2))
    upstream.will(Script([b"one", b"two", b"three"]))
    heard = b""
    async with http.request("POST", "/x", b"{}") as reply:
        while piece := await reply.more():
            reply.begun()
            heard += piece
            await asyncio.sleep(0.5)
    assert heard == b"onetwothree"
    await http.close()


async def test_who_finds_no_connection_waits_for_one(upstream: Upstream) -> None:
    http = connected(upstream, limit=2)
    upstream.otherwise = Script([0.1, b"x"])
    assert await asyncio.gather(*(read_all(http) for _ in range(6))) == [b"x"] * 6
    assert upstream.connections == 2
    await http.close()


async def test_a_wait_for_a_connection_ends_too(upstream: Upstream) -> None:
    http = connected(upstream, Patience(first_event=0.2, idle=5), limit=1)
    upstream.will(Script([b"x"], ending="hold"))
    async with http.request("POST", "/x", b"{}") as reply:
        await reply.more()
        reply.begun()
        with pytest.raises(Failure) as caught:
            await read_all(http)
    assert caught.value.reason_name == "PROVIDER_TIMEOUT"
    await http.close()


async def test_an_sdk_that_cannot_make_a_request_says_why(upstream: Upstream) -> None:
    class NoCredentials:
        base_url = "http://127.0.0.1:9"

        async def post(self, *_: object, **__: object) -> None:
            raise RuntimeError("no token for sk-very-secret-key to be found")

    http = HttpUpstream("up", Prepared(NoCredentials(), secrets=("sk-very-secret-key",)))
    with pytest.raises(Failure) as caught:
        await read_all(http)
    await http.close()
    assert caught.value.reason_name == "PROVIDER_AUTHENTICATION"
    assert "no token for [key]" in caught.value.message


async def test_a_prepared_request_is_the_sdks(upstream: Upstream) -> None:
    import openai

    async with openai.AsyncAzureOpenAI(
        api_key="azure-key-123",
        azure_endpoint=upstream.url.removesuffix("/v1"),
        api_version="2025-01-01",
        http_client=never_sending(),
        max_retries=0,
    ) as sdk:
        http = HttpUpstream("up", Prepared(sdk, secrets=("azure-key-123",)))
        upstream.will(Script([b"{}"]))
        body = b'{"model":"gpt","n":9007199254740993}'
        async with http.request("POST", "/chat/completions", body) as reply:
            await reply.read()
        await http.close()
    (received,) = upstream.received
    assert received.path == "/openai/deployments/gpt/chat/completions?api-version=2025-01-01"
    assert received.headers["api-key"] == "azure-key-123"
    assert received.headers["user-agent"].startswith("penstock-server/")
    assert not [name for name in received.headers if name.startswith("x-stainless")]
    assert received.json["n"] == 9007199254740993
