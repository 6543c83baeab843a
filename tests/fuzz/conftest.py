"""One target for all that is fuzzed: that it lives through all of it is the point."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.target import Target, aimed


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The server under fire."""
    with aimed(tmp_path_factory.mktemp("fuzz")) as target:
        yield target
