"""What all provider tests need: an upstream, and providers that are closed again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from penstock_server.providers.chat_completions import ChatCompletionsProvider

from tests.providers.upstream import Upstream, serving

Connect = Callable[..., ChatCompletionsProvider]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as running:
        yield running


@pytest.fixture
async def connect(upstream: Upstream) -> AsyncIterator[Connect]:
    """Makes providers for the upstream: ``connect("openai", api_key="sk-…")``."""
    made: list[ChatCompletionsProvider] = []

    def make(kind: str = "openai-compatible", **settings: Any) -> ChatCompletionsProvider:
        settings.setdefault("base_url", upstream.url)
        provider = ChatCompletionsProvider("up", kind=kind, **settings)
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(connect: Connect) -> ChatCompletionsProvider:
    """A provider for a server that nothing is known of."""
    return connect()
