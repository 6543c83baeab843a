"""Rates: never more in any window than allowed, and no less than that; here and in Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_server.limit_settings import CallLimits, Rate, RedisSettings
from penstock_server.limits.rates import SLOTS, Asked, Ledger, LocalLedger, Refused, Taken, Window
from penstock_server.limits.shared import SharedLedger
from pydantic import ValidationError

from tests.support.redis_server import Redis, redis_server

TEN = Rate(10, 5.0)


@pytest.mark.parametrize(
    ("text", "amount", "seconds"),
    [
        ("100/10s", 100, 10),
        ("60/m", 60, 60),
        (" 5_000 / 2 h ", 5000, 7200),
        ("1/d", 1, 86400),
        ("3/500ms", 3, 0.5),
        ("2/0.5s", 2, 0.5),
    ],
)
def test_rates_are_read(text: str, amount: int, seconds: float) -> None:
    assert Rate.parse(text) == Rate(amount, seconds)
    (rate,) = CallLimits.model_validate({"requests": text}).requests
    assert rate == Rate(amount, seconds)


@pytest.mark.parametrize("text", ["", "100", "100/s/s", "0/s", "5/0s", "-1/s", "1/week", "a/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="rate"):
        CallLimits.model_validate({"requests": [text]})


@given(
    rate=st.builds(Rate, st.integers(1, 20), st.floats(0.1, 100)),
    steps=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 5)), max_size=200),
)
def test_never_more_in_any_window(rate: Rate, steps: list[tuple[float, int]]) -> None:
    window, now = Window(rate), 1000.0
    let_in: list[tuple[float, int]] = []
    for share, amount in steps:
        now += share * rate.seconds / 2
        amount = min(amount, rate.amount)
        wait = window.wait(amount, now)
        if wait == 0:
            window.add(amount, now)
            let_in.append((now, amount))
        else:
            # No later than a slot after the true window would let it in.
            at = now + wait
            within = sum(a for t, a in let_in if t > at - rate.seconds - 2 * rate.seconds / SLOTS)
            assert within + amount >= rate.amount
            assert deepcopy(window).wait(amount, at + 1e-6) == 0
    for end, _ in let_in:
        begin = end - rate.seconds + 1e-6  # the clock's own rounding
        assert sum(a for t, a in let_in if begin < t <= end) <= rate.amount


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["local", "shared"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    if request.param == "local":
        yield LocalLedger()
        return
    url = request.getfixturevalue("redis").url
    settings = RedisSettings.model_validate({"url": url, "prefix": f"{request.node.name}:"})
    shared = SharedLedger(settings)
    yield shared
    await shared.close()


def asked(*amounts: int, rate: Rate = TEN) -> list[Asked]:
    return [Asked(kind, rate, n) for kind, n in zip(("requests", "tokens"), amounts, strict=False)]


async def test_exactly_as_many_as_allowed(ledger: Ledger) -> None:
    outcomes = [await ledger.take("a", asked(1)) for _ in range(25)]
    assert [isinstance(one, Taken) for one in outcomes] == [True] * 10 + [False] * 15
    refused = outcomes[-1]
    assert isinstance(refused, Refused)
    assert 4 < refused.wait <= 5 + 5 / SLOTS
    assert refused.asked.kind == "requests"
    assert isinstance(await ledger.take("b", asked(1)), Taken), "scopes are apart"


async def test_all_or_nothing(ledger: Ledger) -> None:
    assert isinstance(await ledger.take("a", asked(1, 8)), Taken)
    for _ in range(20):
        refused = await ledger.take("a", asked(1, 3))
        assert isinstance(refused, Refused)
        assert refused.asked.kind == "tokens"
    assert isinstance(await ledger.take("a", asked(9, 2)), Taken), "refusals count as nothing"


async def test_what_was_used_in_truth_replaces_what_was_thought(ledger: Ledger) -> None:
    first = asked(0, 9)
    taken = await ledger.take("a", first)
    assert isinstance(taken, Taken)
    await ledger.correct("a", first, taken, [0, 2])
    assert isinstance(await ledger.take("a", asked(0, 8)), Taken)
    second = asked(0, 0)
    nothing = await ledger.take("a", second)
    assert isinstance(nothing, Taken)
    await ledger.correct("a", second, nothing, [0, 7])  # more than is allowed is a debt
    assert isinstance(await ledger.take("a", asked(0, 1)), Refused)


async def test_more_than_the_whole_rate_needs_an_empty_window(ledger: Ledger) -> None:
    assert isinstance(await ledger.take("a", asked(50)), Taken)
    assert isinstance(await ledger.take("a", asked(1)), Refused)


async def test_windows_pass(ledger: Ledger) -> None:
    short = Rate(2, 0.2)
    assert isinstance(await ledger.take("a", asked(2, rate=short)), Taken)
    refused = await ledger.take("a", asked(1, rate=short))
    assert isinstance(refused, Refused)

    begun = time.monotonic()
    while isinstance(  # noqa: ASYNC110 # what is waited for is the clock
        outcome := await ledger.take("a", asked(1, rate=short)), Refused
    ):
        await asyncio.sleep(min(outcome.wait, 0.005))
    assert refused.wait - 0.1 < time.monotonic() - begun < refused.wait + 0.5


async def test_scopes_that_say_nothing_are_forgotten() -> None:
    now = 0.0
    ledger = LocalLedger(clock=lambda: now)
    for number in range(1_000):
        now += 1
        await ledger.take(f"caller/{number}", asked(1))
    assert len(ledger._books) < 100
