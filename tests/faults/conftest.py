"""One gateway for all faults that it has to survive, and the table of what was seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.faults.house import HEADER, SILENCE, House, rows, settings
from tests.faults.load import Load, learn
from tests.faults.upstream import FaultyUpstream, faulty_upstream
from tests.support.processes import ServerProcess

_SLOW = """\
#!/bin/sh
while [ -e {flag} ]; do sleep 0.1; done
exec {python} "$@"
"""


@pytest.fixture(scope="package")
def upstream() -> Iterator[FaultyUpstream]:
    with faulty_upstream() as one:
        yield one


@pytest.fixture(scope="package")
def shared_house(
    upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("house")
    python, slow = directory / "python", directory / "slow"
    python.write_text(_SLOW.format(flag=slow, python=sys.executable))
    python.chmod(0o755)
    flags = settings(upstream, f"silence_timeout={SILENCE}", f"python={python}")
    with ServerProcess("tests.faults.watched", *flags) as process:
        learn(process.ready().address)
        with Load(process.address):  # what is made once, is made now
            pass
        yield House(process, upstream, slow)


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    """The gateway, with everything well."""
    shared_house.upstream.finished.clear()
    yield shared_house
    shared_house.upstream.mode = "well"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if not rows:
        return
    terminalreporter.section("faults (wrong: answers lost, doubled or mixed up)")
    table = [HEADER, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line(" | ".join(cells).rstrip())
