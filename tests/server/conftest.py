"""What several tests of the server use."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.issuer import Issuer


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Who issues JSON Web Tokens, and answers for its keys."""
    async with Issuer().serving() as running:
        yield running
