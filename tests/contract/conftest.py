"""The one suite: each test runs with both flavours of the client, against gateway and sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.flavours import FLAVOURS
from tests.support.processes import ServerProcess


@pytest.fixture(params=["gateway", "sidecar"])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    process: ServerProcess = request.getfixturevalue(f"{request.param}_process")
    return process


@pytest.fixture(params=FLAVOURS)
def client(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Any]:
    client = FLAVOURS[request.param](server.address, timeout=60)
    yield client
    client.close()
