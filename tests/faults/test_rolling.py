"""Gateways that stop under load: nothing that runs is cut, and with two of them nobody notices."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import penstock
import pytest
from penstock._channel import CHANNEL_OPTIONS

from tests.faults.callers import CALLERS
from tests.faults.house import record, settings
from tests.faults.load import HOSTED, Load
from tests.faults.resources import descriptors, held
from tests.faults.upstream import FaultyUpstream
from tests.support.processes import ServerProcess, eventually

LONG = 150
"""Words of the stream that each gateway has to finish before it may go: a second and a half."""

BALANCED: dict[str, dict[str, Any]] = {
    "aio.Client": {"grpc.lb_policy_name": "round_robin"},
    "Client": {"grpc.lb_policy_name": "round_robin"},
    "stubs": {
        "grpc.service_config": json.dumps(
            {
                **json.loads(CHANNEL_OPTIONS["grpc.service_config"]),
                "loadBalancingConfig": [{"round_robin": {}}],
            }
        )
    },
}
"""How each kind of caller is told to balance; all else is the client's own policy."""


def start(upstream: FaultyUpstream, listen: str = "") -> ServerProcess:
    flags = settings(upstream)
    hosted = flags[flags.index(f"providers.up.base_url={upstream.url}") - 3 :]  # no sidecar
    return ServerProcess("tests.faults.watched", *hosted, listen=listen)


class LongAnswer:
    """A stream that runs when its gateway is stopped."""

    def __init__(self, address: str) -> None:
        self._begun = threading.Event()
        self._address = address
        self._words: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._begun.wait(20)

    def whole(self) -> bool:
        self._thread.join(30)
        return "".join(self._words) == " ".join(f"1.{n}" for n in range(LONG))

    def _read(self) -> None:
        with (
            penstock.Client(self._address, timeout=30) as client,
            client.stream(f"say 1 {LONG}", model=HOSTED) as stream,
        ):
            for piece in stream.text():
                self._words.append(piece)
                self._begun.set()


@pytest.fixture
def pair(upstream: FaultyUpstream) -> Iterator[list[ServerProcess]]:
    upstream.finished.clear()
    both = [start(upstream), start(upstream)]
    try:
        for one in both:
            one.ready()
        yield both
    finally:
        for one in both:
            one.__exit__()


@pytest.mark.parametrize("flavour", CALLERS)
def test_a_rolling_restart(
    pair: list[ServerProcess],
    upstream: FaultyUpstream,
    flavour: str,
    report: Callable[[str], None],
) -> None:
    addresses = [one.address for one in pair]
    target = "ipv4:" + ",".join(addresses)
    options = BALANCED[flavour]
    with Load(target, [HOSTED], flavour=flavour, options=options, retries=True) as load:
        before = held(pair[0])
        began = time.monotonic()
        for number, address in enumerate(addresses):
            last = LongAnswer(address)
            assert pair[number].stop() == 0
            pair[number].__exit__()
            assert last.whole()
            pair[number] = start(upstream, listen=address).ready()
            eventually(lambda one=pair[number]: len(one.calls()) > 5, 30)  # type: ignore[misc]
        took = time.monotonic() - began
        load.normal_again(time.monotonic())
    seen = load.statuses(began, time.monotonic())
    assert not load.wrong
    assert set(seen) == {"OK"}, seen
    slowest = max(one.ended - one.started for one in load.asked)
    report(f"{seen.total()} calls in {took:.1f} s, 0 failed, the slowest took {slowest:.2f} s")
    assert not [n for n, times in upstream.finished.items() if times > 1 and n != 1]
    record(f"rolling restart ({flavour})", seen, 0.0, "", before.row(held(pair[0])))


def test_sigterm_under_load(upstream: FaultyUpstream, report: Callable[[str], None]) -> None:
    """One gateway alone: what runs is finished, and what comes later is told to go elsewhere."""
    upstream.finished.clear()
    with ExitStack() as stack:
        process = stack.enter_context(start(upstream)).ready()
        address = process.address
        with Load(address, [HOSTED]) as load:
            before = held(process)
            last = LongAnswer(address)
            began = time.monotonic()
            process.send(signal.SIGTERM)
            assert process.wait() == 0
            stopped = time.monotonic() - began
            assert last.whole()
            process = stack.enter_context(start(upstream, listen=address)).ready()
            normal = load.normal_again(began)
        seen = load.statuses(began, time.monotonic())
        assert not load.wrong
        # At the very end, a call that gRPC has and Penstock has not is gRPC's to refuse.
        assert set(seen) <= {"OK", "UNAVAILABLE/SHUTTING_DOWN", "UNAVAILABLE", "CANCELLED"}
        assert seen["CANCELLED"] <= 2
        report(f"{dict(seen)}; stopped after {stopped:.2f} s; normal again {normal:.2f} s")
        eventually(lambda: descriptors(process.pid) - len(upstream.connections) < 40)
        after = held(process)
        record("SIGTERM, and started again", seen, normal, "", before.row(after))
