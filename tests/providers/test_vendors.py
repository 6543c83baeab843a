"""Every vendor's every case, through everything: whole, streamed, cut anywhere, sync and aio.

What comes of it is the matrix in docs/providers.md: ``pytest tests/providers/test_vendors.py
--rewrite-docs`` writes it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from penstock import v1
from penstock.errors import PenstockError

from tests.providers.asking import CALL, completed, folded, kinds
from tests.providers.bench import Bench, bench, comparable, contains, root, slug, streamed, whole
from tests.providers.cases import FEATURES, BadAnswer, Case, Vendor
from tests.providers.upstream import Script, bytewise, serving
from tests.providers.vendors import all_vendors
from tests.support import scripted
from tests.support.processes import until

VENDORS = all_vendors()
CASES = [(vendor, case) for vendor in VENDORS for case in vendor.cases]
ERRORS = [(vendor, error) for vendor in VENDORS for error in vendor.errors]
GONE_WITHIN = 0.2
"""Seconds after which an upstream has to know that the caller has gone."""

passed: dict[tuple[str, str], set[str]] = defaultdict(set)
"""Vendor and feature → the flavours that passed; what the matrix is made of."""


def case_id(value: object) -> str:
    if isinstance(value, Vendor):
        return slug(value)
    return value.name if isinstance(value, Case | BadAnswer) else str(value)


def each(pairs: list[tuple[Vendor, Case]]) -> pytest.MarkDecorator:
    ids = [f"{slug(vendor)}-{case.feature}-{case.name}" for vendor, case in pairs]
    return pytest.mark.parametrize(("vendor", "case"), pairs, ids=ids)


def request_of(case: Case, model: str) -> v1.GenerateRequest:
    request = v1.GenerateRequest()
    request.CopyFrom(case.request)
    request.model = model
    return request


@pytest.fixture(scope="module")
def path() -> Iterator[Bench]:
    with bench(VENDORS) as built:
        yield built


def cuts(data: bytes, count: int, seed: int) -> list[bytes]:
    """Cut into pieces at ``count`` random places."""
    random_ = random.Random(seed)
    places = sorted({0, len(data), *(random_.randrange(len(data)) for _ in range(count))})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@each(CASES)
async def test_an_answer_means_the_same_however_it_arrives(vendor: Vendor, case: Case) -> None:
    """One piece, byte by byte, anyhow: always what the whole answer means, and what was meant."""
    ways = [[case.stream], bytewise(case.stream), *(cuts(case.stream, 20, n) for n in range(3))]
    async with serving() as upstream:
        provider = vendor.make(slug(vendor), root(upstream))
        try:
            request = request_of(case, vendor.model)
            upstream.will(whole(case))
            meant = await provider.generate(vendor.model, request, CALL)
            assert comparable(meant, case.answer) == comparable(case.answer, case.answer)
            for pieces in ways:
                upstream.will(streamed(vendor, pieces))
                async with aclosing(provider.stream(vendor.model, request, CALL)) as events:
                    heard = [event async for event in events]
                answer = completed(heard)
                assert comparable(answer, case.answer) == comparable(case.answer, case.answer)
                assert kinds(heard)[0] == "started"
                said = folded(heard)
                for part, final in zip(said.parts, answer.message.parts, strict=True):
                    final.ClearField("provider_data")  # it comes when the part is whole
                    part.ClearField("provider_data")
                    assert part == final
        finally:
            await provider.close()


@each(CASES)
def test_pieces_of_any_size_are_read(vendor: Vendor, case: Case) -> None:
    """The reader itself, fed by the byte: no network that might put bytes together again."""
    provider = vendor.make(slug(vendor), "http://127.0.0.1:9")
    request = request_of(case, vendor.model)
    answer = provider._answer(provider._asked(vendor.model, request, CALL))
    for piece in bytewise(case.stream):
        if not answer.ended:
            answer.feed(piece)
            answer.events()
    if not answer.ended:
        answer.feed(b"")
    (*_, last) = answer.complete()
    assert comparable(last.completed, case.answer) == comparable(case.answer, case.answer)


@pytest.mark.parametrize("flavour", ["sync", "aio"])
@each(CASES)
def test_both_clients_get_it_over_the_wire(
    path: Bench, vendor: Vendor, case: Case, flavour: str
) -> None:
    client = path.clients[flavour]
    request = request_of(case, f"{slug(vendor)}/{vendor.model}")
    wanted = comparable(case.answer, case.answer)

    upstream = path.will(vendor, whole(case))
    answer = client.generate(request)
    assert answer.model == request.model
    assert comparable(answer, case.answer) == wanted
    (received,) = upstream.received
    assert not list(contains(received.json, dict(case.asked)))

    upstream = path.will(vendor, streamed(vendor, cuts(case.stream, 20, 7)))
    stream = client.stream(request)
    events = list(stream)
    assert comparable(stream.response, case.answer) == wanted
    assert events[-1].completed == stream.response
    (received,) = upstream.received
    assert not list(contains(received.json, dict(case.asked)))
    passed[vendor.name, case.feature].add(flavour)


@pytest.mark.parametrize("flavour", ["sync", "aio"])
@pytest.mark.parametrize(
    ("vendor", "error"), ERRORS, ids=[f"{slug(v)}-{e.name}" for v, e in ERRORS]
)
def test_errors_are_what_they_are(
    path: Bench, vendor: Vendor, error: BadAnswer, flavour: str
) -> None:
    client = path.clients[flavour]
    model = f"{slug(vendor)}/{vendor.model}"
    headers = {"content-type": "application/json", "x-request-id": "req-9", **error.headers}
    failures: list[PenstockError] = []
    if error.whole is not None:
        for stream in (False, True):
            path.will(vendor, Script([error.whole], error.status, headers))
            with pytest.raises(PenstockError) as caught:
                list(client.stream("Hi", model=model)) if stream else client.generate(
                    "Hi", model=model
                )
            failures.append(caught.value)
    if error.in_stream is not None:
        path.will(vendor, streamed(vendor, cuts(vendor.opening + error.in_stream, 5, 3)))
        events: list[v1.StreamGenerateResponse] = []
        with pytest.raises(PenstockError) as caught:
            for event in client.stream("Hi", model=model):
                events.append(event)
        failures.append(caught.value)
        assert "part_delta" in kinds(events), "what came before the error was lost"
        assert "completed" not in kinds(events)
    assert failures
    for failure in failures:
        assert failure.reason == error.reason, failure.message
        assert failure.metadata["provider"] == slug(vendor)
        assert failure.metadata["upstream_status"] == str(error.status)
        assert failure.metadata["model"] == model
        if vendor.key:
            assert vendor.key not in str(failure) + str(failure.metadata)
        if error.retry_delay is not None:
            assert failure.retry_delay == pytest.approx(error.retry_delay, abs=1.0)
    passed[vendor.name, "errors"].add(flavour)


# Where a call is when its caller goes: the script of the upstream, and what has arrived by then.
def before_anything(vendor: Vendor) -> Script:
    return Script(raw=b"", ending="hold")


def after_the_head(vendor: Vendor) -> Script:
    return Script([], 200, {"content-type": vendor.stream_type}, ending="hold")


def in_the_middle(vendor: Vendor) -> Script:
    return Script([vendor.opening], 200, {"content-type": vendor.stream_type}, ending="hold")


@pytest.mark.parametrize("how", ["cancel", "disconnect", "deadline"])
@pytest.mark.parametrize(
    "where", [before_anything, after_the_head, in_the_middle], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("method", ["unary", "stream"])
@pytest.mark.parametrize("vendor", VENDORS, ids=case_id)
async def test_the_upstream_knows_when_the_caller_goes(
    vendor: Vendor,
    method: str,
    where: Callable[[Vendor], Script],
    how: str,
    report: Callable[[str], None],
) -> None:
    async with serving() as upstream:
        provider = vendor.make(slug(vendor), root(upstream))
        provider._local = False
        async with scripted.serving(provider) as (server, _):
            own = grpc.aio.insecure_channel(server.addresses[0])
            stub = v1.GenerationServiceStub(own)
            request = v1.GenerateRequest(model=f"{slug(vendor)}/{vendor.model}", prompt="Hi")
            upstream.will(where(vendor))
            timeout = 0.3 if how == "deadline" else 30.0
            gone = time.monotonic() + timeout
            call: grpc.aio.Call = (
                stub.Generate(request, timeout=timeout)
                if method == "unary"
                else stub.StreamGenerate(v1.StreamGenerateRequest(request=request), timeout=timeout)
            )
            waiting = asyncio.ensure_future(_read(call))
            await upstream.asked()
            if where is in_the_middle and method == "stream":
                await until(lambda: _heard(call))
            if how == "cancel":
                gone = time.monotonic()
                call.cancel()
            elif how == "disconnect":
                gone = time.monotonic()
                await own.close(None)
            await upstream.hung_up()
            late = time.monotonic() - gone
            await asyncio.gather(waiting, return_exceptions=True)
            await own.close()
            assert late < GONE_WITHIN
            await upstream.down_to(0)
    report(f"{late * 1000:.1f} ms")
    passed[vendor.name, "cancellation"].add(how)


_seen: dict[int, list[object]] = {}


async def _read(call: grpc.aio.Call) -> None:
    events = _seen.setdefault(id(call), [])
    if hasattr(call, "__aiter__"):
        async for event in call:
            events.append(event)
    else:
        await call  # type: ignore[misc]


def _heard(call: grpc.aio.Call) -> bool:
    return any(event.HasField("part_delta") for event in _seen.get(id(call), ()))  # type: ignore[attr-defined]


DOCS = Path(__file__).parents[2] / "docs/providers.md"
BEGIN, END = "<!-- matrix: begin -->\n", "<!-- matrix: end -->\n"
ROWS = (*FEATURES, "errors", "cancellation")


def matrix() -> str:
    names = [vendor.name for vendor in VENDORS]
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' :-: |' * len(names)}"]
    for row in ROWS:
        cells = [
            "✓" if (vendor.name, row) in passed else "·" if vendor.like else "–"
            for vendor in VENDORS
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_the_matrix_is_what_the_tests_say(request: pytest.FixtureRequest) -> None:
    """Last in the file: it is made of what passed before it."""
    complete = {(v.name, c.feature) for v, c in CASES} | {
        (v.name, row) for v in VENDORS for row in ("errors", "cancellation")
    }
    if set(passed) != complete:
        pytest.skip("only some of the cases were run, or some failed")
    text = DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    fresh = f"{before}{BEGIN}{matrix()}{END}{after}"
    if request.config.getoption("--rewrite-docs"):
        DOCS.write_text(fresh, encoding="utf-8")
    assert text == fresh or request.config.getoption("--rewrite-docs"), (
        "docs/providers.md is stale: pytest tests/providers/test_vendors.py --rewrite-docs"
    )
