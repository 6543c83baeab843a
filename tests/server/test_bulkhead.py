"""Bulkheads: who runs, who waits, who is refused; and that no place is ever lost."""

from __future__ import annotations

import asyncio
import random

import pytest
from penstock_server.limits.bulkhead import Bulkhead, Full, Ticket


async def waiting(bulkhead: Bulkhead, *callers: str) -> list[asyncio.Task[Ticket]]:
    tasks = [asyncio.create_task(bulkhead.enter(caller, None)) for caller in callers]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_as_many_as_there_are_places() -> None:
    bulkhead = Bulkhead(2, 1)
    one, two = await bulkhead.enter("a", None), await bulkhead.enter("a", None)
    (third,) = await waiting(bulkhead, "a")
    assert (bulkhead.running, bulkhead.waiting) == (2, 1)
    with pytest.raises(Full):
        await bulkhead.enter("a", None)
    bulkhead.leave(one)
    bulkhead.leave(await third)
    bulkhead.leave(two)
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


async def test_callers_take_turns() -> None:
    bulkhead = Bulkhead(1, 100)
    current = await bulkhead.enter("flood", None)
    order: list[str] = []

    async def call(caller: str) -> None:
        ticket = await bulkhead.enter(caller, None)
        order.append(caller)
        bulkhead.leave(ticket)

    tasks = [asyncio.create_task(call(c)) for c in ["flood"] * 10 + ["few", "few"]]
    await asyncio.sleep(0)
    bulkhead.leave(current)
    await asyncio.gather(*tasks)
    assert max(i for i, c in enumerate(order) if c == "few") <= 4


async def test_a_flood_makes_room_for_a_newcomer() -> None:
    bulkhead = Bulkhead(1, 3)
    current = await bulkhead.enter("flood", None)
    flood = await waiting(bulkhead, "flood", "flood", "flood")
    (few,) = await waiting(bulkhead, "few")
    with pytest.raises(Full):
        await flood[-1]
    bulkhead.leave(current)
    for begun in asyncio.as_completed([*flood[:2], few]):
        bulkhead.leave(await begun)
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


async def test_who_cannot_be_begun_in_time_is_told_at_once() -> None:
    now = 0.0
    bulkhead = Bulkhead(1, 100, clock=lambda: now)
    ticket = await bulkhead.enter("a", None)
    now = 10.0
    bulkhead.leave(ticket)  # a call takes 10 s
    await bulkhead.enter("a", 5.0)
    with pytest.raises(Full, match="its turn would come in 10") as full:
        await bulkhead.enter("a", 5.0)
    assert full.value.wait == pytest.approx(10)
    (patient,) = await waiting(bulkhead, "a")
    assert bulkhead.waiting == 1
    patient.cancel()


async def test_no_place_is_lost() -> None:
    """Calls end, or are cancelled while they wait, also at the moment when their turn comes."""
    rng = random.Random(1)  # a test's dice
    bulkhead = Bulkhead(3, 20)
    most = 0

    async def call(caller: str) -> None:
        nonlocal most
        ticket = await bulkhead.enter(caller, None)
        try:
            most = max(most, bulkhead.running)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        finally:
            bulkhead.leave(ticket)

    for _ in range(300):
        tasks = [asyncio.create_task(call(rng.choice("abc"))) for _ in range(rng.randrange(1, 30))]
        for _ in range(rng.randrange(8)):
            await asyncio.sleep(0)
        for task in rng.sample(tasks, len(tasks) // 2):
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(e is None or isinstance(e, Full | asyncio.CancelledError) for e in ended)
        assert (bulkhead.running, bulkhead.waiting) == (0, 0)
    assert most == 3
