"""What every test may use: servers that run once for the whole run, and a place for figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ServerProcess, gateway, local_tiny, sidecar

if TYPE_CHECKING:
    from tests.support.hosted import Hosted

_figures: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take a flag of ours."""
    parser.addoption(
        "--rewrite-docs", action="store_true", help="write into docs/ what the tests found"
    )


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a figure that a test measured; all are printed at the end of the run."""
    name = request.node.name

    def take(figure: str) -> None:
        _figures.append(f"{name}: {figure}")

    return take


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    if _figures:
        terminalreporter.section("figures")
        for figure in _figures:
            terminalreporter.write_line(figure)


@pytest.fixture(scope="session")
def gateway_process() -> Iterator[ServerProcess]:
    """A gateway with the embedded model, for tests that do it no harm."""
    with gateway() as process:
        yield process.ready()


@pytest.fixture(scope="session")
def hosted() -> Iterator[Hosted]:
    """What the hosted providers of `hosted_gateway` are; tests leave it as they found it."""
    from tests.support.hosted import hosting  # brings the vendors' SDKs, which most do not need

    with hosting() as server:
        yield server


@pytest.fixture(scope="session")
def hosted_gateway(hosted: Hosted) -> Iterator[ServerProcess]:
    """A gateway with the embedded model and hosted providers, for tests that do it no harm."""
    from tests.support.hosted import ENVIRONMENT

    with gateway(*local_tiny(), *hosted.settings(), env=ENVIRONMENT) as process:
        yield process.ready()


@pytest.fixture(scope="session")
def sidecar_process() -> Iterator[ServerProcess]:
    """A sidecar that stands alone, for tests that do it no harm."""
    with sidecar() as process:
        yield process.ready()
