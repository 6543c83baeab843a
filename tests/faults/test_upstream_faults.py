"""A provider over HTTP that fails under load: the others do not notice, and it is forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.faults.house import House
from tests.faults.load import HOSTED, LOCAL
from tests.faults.upstream import Cause, FaultyUpstream, does

LASTS = 3.0
"""Seconds that each fault lasts: longer than the gateway's patience."""


def back(upstream: FaultyUpstream) -> None:
    upstream.mode = "well"


FAULTS: dict[str, tuple[Cause, Cause, set[str]]] = {
    "upstream refuses": (
        FaultyUpstream.refuse,
        FaultyUpstream.listen,
        {"UNAVAILABLE/PROVIDER_UNAVAILABLE"},
    ),
    "upstream takes no connection (no SYN-ACK)": (
        FaultyUpstream.swallow,
        FaultyUpstream.listen,
        {"UNAVAILABLE/PROVIDER_UNAVAILABLE", "DEADLINE_EXCEEDED/PROVIDER_TIMEOUT"},
    ),
    "upstream never answers": (
        does("silent"),
        back,
        {"DEADLINE_EXCEEDED/PROVIDER_TIMEOUT", "DEADLINE_EXCEEDED"},
    ),
    "upstream cuts in the middle": (does("cut"), back, {"UNAVAILABLE/PROVIDER_UNAVAILABLE"}),
    "upstream answers garbage": (does("garbage"), back, {"INTERNAL/PROVIDER_PROTOCOL"}),
    "upstream speaks no HTTP": (does("no http"), back, {"INTERNAL/PROVIDER_PROTOCOL"}),
    "upstream drips a byte a second": (
        does("drip"),
        back,
        {"DEADLINE_EXCEEDED/PROVIDER_TIMEOUT", "DEADLINE_EXCEEDED"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_upstream(house: House, fault: str, report: Callable[[str], None]) -> None:
    cause, mend, expected = FAULTS[fault]
    with house.trial(fault) as trial:
        trial.begins()
        cause(house.upstream)
        time.sleep(LASTS)  # the fault's length, not the test's patience
        mend(house.upstream)
        trial.ends()
    hosted, local = trial.statuses(HOSTED), trial.statuses(LOCAL)
    report(f"{dict(hosted)}; normal {trial.normal:.2f} s after it was over")
    assert set(hosted) - {"OK"} <= expected
    assert len(hosted) > 1, "the fault was not felt"
    assert set(local) == {"OK"}, "a model elsewhere is not touched by it"
    assert trial.normal < 5
