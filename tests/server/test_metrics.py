"""Figures for Prometheus, scraped as Prometheus does from a gateway in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import grpc
import pytest
from penstock import v1
from penstock_server.config import ServerConfig
from penstock_server.health import HealthBoard
from penstock_server.interceptor import Gate
from penstock_server.metrics import Exporter
from penstock_server.routing import Router
from penstock_server.telemetry import CallLog
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import (
    ServerProcess,
    children,
    eventually,
    gateway,
    local_tiny,
    sidecar,
)
from tests.support.scripted import ScriptedProvider

Figures = Mapping[tuple[str, frozenset[tuple[str, str]]], float]

# Nobody listens on port 1: connections are refused at once.
GONE = (
    *("kind=openai-compatible", "base_url=http://127.0.0.1:1/v1"),
    *("retry.attempts=2", "retry.first_pause=0.01"),
)
SETTINGS = (
    *local_tiny(),
    *(arg for value in GONE for arg in ("--set", f"providers.gone.{value}")),
    *("--set", "routes.both.targets=gone/m, local/tiny", "--set", "routes.both.circuit.failures=2"),
    *("--set", "metrics.listen=127.0.0.1:0"),
)


@pytest.fixture(scope="module")
def front() -> Iterator[ServerProcess]:
    with gateway(*SETTINGS) as process:
        yield process.ready()


@pytest.fixture
def stub(front: ServerProcess) -> Iterator[v1.GenerationServiceStub]:
    with grpc.insecure_channel(front.address) as channel:
        yield v1.GenerationServiceStub(channel)


def url(process: ServerProcess) -> str:
    line = process.wait_for(lambda line: line["message"] == "metrics")
    return f"http://{line['address']}/metrics"


def scrape(process: ServerProcess) -> Figures:
    with urllib.request.urlopen(url(process), timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/plain")
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(figures: Figures, name: str, **labels: str) -> float:
    return figures.get((name, frozenset(labels.items())), 0.0)


class Since:
    """How much a process's figures have grown."""

    def __init__(self, process: ServerProcess) -> None:
        self._process = process
        self._before = scrape(process)
        self.now = self._before

    def look(self) -> Since:
        self.now = scrape(self._process)
        return self

    def grown(self, name: str, **labels: str) -> float:
        return of(self.now, name, **labels) - of(self._before, name, **labels)


def request(model: str, prompt: str = "Who are you?") -> v1.GenerateRequest:
    return v1.GenerateRequest(
        model=model, prompt=prompt, sampling=v1.Sampling(max_output_tokens=12)
    )


@contextmanager
def refused(code: grpc.StatusCode) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code() is code


def test_calls_by_how_they_went(front: ServerProcess, stub: v1.GenerationServiceStub) -> None:
    since = Since(front)
    generate, stream = "GenerationService/Generate", "GenerationService/StreamGenerate"
    answers = [stub.Generate(request("local/tiny")) for _ in range(3)]
    told = list(stub.StreamGenerate(v1.StreamGenerateRequest(request=request("local/tiny"))))
    with refused(grpc.StatusCode.NOT_FOUND):
        stub.Generate(request("nobody/has-this"))
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        stub.Generate(v1.GenerateRequest(model="local/tiny"))
    with refused(grpc.StatusCode.UNAVAILABLE):
        stub.Generate(request("gone/m"))
    since.look()

    def calls(method: str, provider: str, code: str, reason: str = "") -> float:
        labels = {"method": method, "provider": provider, "code": code, "reason": reason}
        return since.grown("penstock_calls_total", **labels)

    assert calls(generate, "local", "OK") == 3
    assert calls(stream, "local", "OK") == 1
    assert calls(generate, "", "NOT_FOUND", "PROVIDER_NOT_FOUND") == 1
    assert calls(generate, "", "INVALID_ARGUMENT", "INVALID_REQUEST") == 1
    assert calls(generate, "gone", "UNAVAILABLE", "PROVIDER_UNAVAILABLE") == 1

    durations = {"method": generate, "provider": "local"}
    assert since.grown("penstock_call_duration_seconds_count", **durations) == 3
    assert 0 < since.grown("penstock_call_duration_seconds_sum", **durations) < 60
    assert since.grown("penstock_time_to_first_event_seconds_count", provider="local") == 1
    usages = [answer.usage for answer in answers] + [told[-1].completed.usage]
    for kind in ("input", "cached_input", "output"):
        said = sum(getattr(usage, f"{kind}_tokens") for usage in usages)
        assert since.grown("penstock_tokens_total", provider="local", kind=kind) == said
    assert sum(usage.output_tokens for usage in usages) > 0
    again = {"provider": "gone", "reason": "PROVIDER_UNAVAILABLE"}
    assert since.grown("penstock_retries_total", **again) == 1


def test_routes(front: ServerProcess, stub: v1.GenerationServiceStub) -> None:
    since = Since(front)
    for _ in range(4):
        assert stub.Generate(request("both")).model == "local/tiny"
    since.look()

    def circuit(target: str, state: str) -> float:
        labels = {"route": "both", "target": target, "state": state}
        return of(since.now, "penstock_route_target_circuit", **labels)

    tried = {"route": "both", "target": "gone/m", "reason": "PROVIDER_UNAVAILABLE"}
    assert since.grown("penstock_route_attempts_total", **tried) == 2  # then its circuit opened
    assert (circuit("gone/m", "open"), circuit("gone/m", "closed")) == (1, 0)
    assert (circuit("local/tiny", "closed"), circuit("local/tiny", "half-open")) == (1, 0)
    asked = {"method": "GenerationService/Generate", "provider": "both", "code": "OK", "reason": ""}
    assert since.grown("penstock_calls_total", **asked) == 4
    assert since.grown("penstock_tokens_total", provider="local", kind="output") > 0


def test_what_is_now(front: ServerProcess, stub: v1.GenerationServiceStub) -> None:
    figures = scrape(front)
    assert of(figures, "penstock_calls_running") == 0
    assert of(figures, "penstock_provider_healthy", provider="local") == 1
    assert of(figures, "penstock_sidecar_up", provider="local", address="") == 1
    assert of(figures, "process_resident_memory_bytes") > 1 << 20
    assert of(figures, "process_open_fds") > 3
    long = request("local/tiny", "Tell me a story.")
    long.sampling.max_output_tokens = 1_500
    events = stub.StreamGenerate(v1.StreamGenerateRequest(request=long))
    next(events)
    assert of(scrape(front), "penstock_calls_running") == 1
    events.cancel()
    eventually(lambda: of(scrape(front), "penstock_calls_running") == 0)


def test_what_callers_write_is_no_label(
    front: ServerProcess, stub: v1.GenerationServiceStub
) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        stub.Generate(request("somebody/else"))
    before = len(scrape(front))
    with grpc.insecure_channel(front.address) as channel:
        for number in range(50):
            with refused(grpc.StatusCode.NOT_FOUND):
                stub.Generate(request(f"nobody-{number}/m-{number}"))
            with refused(grpc.StatusCode.UNIMPLEMENTED):
                channel.unary_unary(f"/penstock.v1.GenerationService/Made{number}")(b"")  # type: ignore[arg-type] # bytes, as they are
    figures = scrape(front)
    assert len(figures) == before
    assert not [labels for _, labels in figures if any("nobody-" in value for _, value in labels)]


def test_a_sidecar_that_is_started_again(
    front: ServerProcess, stub: v1.GenerationServiceStub
) -> None:
    before = of(scrape(front), "penstock_sidecar_restarts_total", provider="local")
    (child,) = children(front.pid)
    os.kill(child, signal.SIGKILL)
    eventually(
        lambda: of(scrape(front), "penstock_sidecar_restarts_total", provider="local") == before + 1
    )
    stub.Generate(request("local/tiny"), timeout=60, wait_for_ready=True)
    eventually(lambda: of(scrape(front), "penstock_sidecar_up", provider="local", address="") == 1)


def test_they_are_off_by_default_and_there_is_nothing_else(front: ServerProcess) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url(front).replace("/metrics", "/"), timeout=20)
    assert ServerConfig().metrics.listen == ""
    with gateway() as process:
        process.ready()
        assert not [line for line in process.log if line["message"] == "metrics"]


def test_a_sidecar_has_them_too() -> None:
    with sidecar("--set", "metrics.listen=127.0.0.1:0") as process:
        process.ready()
        assert of(scrape(process), "penstock_provider_healthy", provider="local") == 1


def test_where_somebody_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with gateway("--set", f"metrics.listen={address}") as process:
            assert process.wait() == 1
            assert any(f"{address} for metrics" in line["message"] for line in process.log)


@pytest.mark.parametrize("wrong", ["9464", "localhost", "http://localhost:1", "a:b"])
def test_addresses(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"metrics\.listen"):
        ServerConfig.model_validate({"metrics": {"listen": wrong}})


def test_what_they_cost(report: Callable[[str], None]) -> None:
    provider = ScriptedProvider()
    exporter = Exporter(Router([provider]), Gate(1 << 20), HealthBoard([provider]))
    line = CallLog("GenerationService/Generate", "r-1", "peer", provider="test", answered="test")
    line.tokens = {"input": 10, "cached_input": 0, "output": 20}
    line.first_event = line.started + 0.1
    count = 2_000
    began = time.perf_counter()
    for _ in range(count):
        exporter.record(line, "OK", "", 0.2)
    each = (time.perf_counter() - began) / count
    report(f"{each * 1e6:.1f} µs for each call")
    assert each < 500e-6  # a tenth of that is usual
