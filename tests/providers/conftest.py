"""What all provider tests need: an upstream, and providers that are closed again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from penstock_server.providers.openai.chat_provider import ChatProvider, bearer
from penstock_server.providers.transport.upstream import Patience

from tests.providers.upstream import Upstream, serving

Connect = Callable[..., ChatProvider]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as running:
        yield running


@pytest.fixture
async def connect(upstream: Upstream) -> AsyncIterator[Connect]:
    """Makes providers for the upstream: ``connect("openai", api_key="sk-…")``."""
    made: list[ChatProvider] = []

    def make(kind: str = "openai-compatible", **settings: Any) -> ChatProvider:
        patience = {
            limit: settings.pop(f"{limit}_timeout")
            for limit in ("connect", "first_event", "idle")
            if f"{limit}_timeout" in settings
        }
        base_url = settings.pop("base_url", upstream.url)
        credentials = bearer("up", base_url, settings.pop("api_key", ""))
        provider = ChatProvider(
            "up", credentials, kind=kind, patience=Patience(**patience), **settings
        )
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(connect: Connect) -> ChatProvider:
    """A provider for a server that nothing is known of."""
    return connect()
