"""Figures for Prometheus: how calls went, and how what answers them is now, over HTTP.

Each call is counted once, when it ends; what is true at the moment is looked up when somebody asks.
Labels hold what is configured or fixed, never what a caller wrote: names of models are callers'
words, so there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TypeVar, cast

from aiohttp import web
from google.protobuf import descriptor_pool
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from penstock_server.circuit import State
from penstock_server.health import SERVICES, HealthBoard
from penstock_server.interceptor import Gate
from penstock_server.providers.sidecar import SidecarProvider
from penstock_server.routes import RouteProvider
from penstock_server.routing import Router
from penstock_server.telemetry import CallLog

F = TypeVar("F", Counter, Histogram)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""The buckets of times: from a model of three megabytes to one that thinks."""


class Exporter:
    """Counts the calls of one server, and answers scrapes at ``http://address/metrics``.

    Concurrency: all on the server's event loop, scrapes included: nothing changes while one is
    written.

    Example::

        exporter = Exporter(router, gate, health)
        gate.observe = exporter.record
        address = await exporter.start("127.0.0.1:9464")
        await exporter.stop()
    """

    def __init__(self, router: Router, gate: Gate, health: HealthBoard) -> None:
        self._router = router
        self._found: dict[tuple[object, tuple[str, ...]], object] = {}
        self._runner: web.AppRunner | None = None
        self._registry = registry = CollectorRegistry()
        self._calls = Counter(
            "penstock_calls",
            "Calls that have ended, by how.",
            ("method", "provider", "code", "reason"),
            registry=registry,
        )
        self._durations = Histogram(
            "penstock_call_duration_seconds",
            "From a call's arrival to its end.",
            ("method", "provider"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_events = Histogram(
            "penstock_time_to_first_event_seconds",
            "From a stream's arrival to the first of its answer.",
            ("provider",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "penstock_tokens",
            "Tokens read and written, by the provider that answered.",
            ("provider", "kind"),
            registry=registry,
        )
        self._retries = Counter(
            "penstock_retries",
            "Times that a provider was asked once more.",
            ("provider", "reason"),
            registry=registry,
        )
        self._attempts = Counter(
            "penstock_route_attempts",
            "Targets that were tried in vain, or (HEDGED) asked beside the one that answered.",
            ("route", "target", "reason"),
            registry=registry,
        )
        registry.register(_State(router, gate, health))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def record(self, line: CallLog, code: str, reason: str, seconds: float) -> None:
        """Count a call that has ended."""
        method = line.method if line.method in _methods() else ""
        provider = self._known(line.provider)
        of = self._of
        of(self._calls, method, provider, code, reason).inc()
        of(self._durations, method, provider).observe(seconds)
        if line.first_event is not None:
            of(self._first_events, provider).observe(line.first_event - line.started)
        if line.tokens:
            answered = self._known(line.answered)
            for kind, count in line.tokens.items():
                if count:
                    of(self._tokens, answered, kind).inc(count)
        for again in line.retries:
            of(self._retries, provider, again).inc()
        for route, target, why in line.tried:
            of(self._attempts, route, target, why).inc()

    async def start(self, address: str) -> str:
        """Answer scrapes at ``host:port``; the address, with the port that was free for 0.

        Raises OSError where somebody else is there.
        """
        app = web.Application()
        app.router.add_get("/metrics", make_aiohttp_handler(self._registry))
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        host, _, port = address.rpartition(":")
        await web.TCPSite(self._runner, host.strip("[]") or None, int(port)).start()
        return f"{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Answer no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _of(self, family: F, *labels: str) -> F:
        """The one of a family that has these labels; by the library's own way it takes longer."""
        key = (family, labels)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = family.labels(*labels)
        return cast("F", found)

    def _known(self, name: str) -> str:
        return name if name in self._router.providers or name in self._router.routes else ""


@cache
def _methods() -> frozenset[str]:
    """The methods that there are, as `CallLog` has them: strangers may ask for any."""
    pool = descriptor_pool.Default()
    return frozenset(
        f"{service.name}/{method.name}"
        for service in (pool.FindServiceByName(name) for name in SERVICES)
        for method in service.methods
    )


class _State(Collector):
    """What is true now."""

    def __init__(self, router: Router, gate: Gate, health: HealthBoard) -> None:
        self._router = router
        self._gate = gate
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        routes = [r for r in self._router.routes.values() if isinstance(r, RouteProvider)]
        providers = self._router.providers
        sidecars = [p for p in providers.values() if isinstance(p, SidecarProvider)]
        healthy = set(self._health.healthy())
        yield _gauge(
            "penstock_calls_running",
            "Calls that are being answered.",
            (),
            [((), self._gate.running)],
        )
        yield _gauge(
            "penstock_provider_healthy",
            "Whether a provider can answer.",
            ("provider",),
            (((name,), name in healthy) for name in providers),
        )
        yield _gauge(
            "penstock_route_target_circuit",
            "The state of each target's circuit: 1 for the one that it is in.",
            ("route", "target", "state"),
            (
                ((route.name, target.name, state.value), target.circuit.state is state)
                for route in routes
                for target in route.targets
                for state in State
            ),
        )
        yield _gauge(
            "penstock_route_target_outstanding_calls",
            "Calls of a route to a target that are under way.",
            ("route", "target"),
            (((r.name, t.name), t.outstanding) for r in routes for t in r.targets),
        )
        yield _gauge(
            "penstock_sidecar_up",
            "Whether a sidecar can answer, for each address of its provider's.",
            ("provider", "address"),
            (
                (
                    (provider.name, member.address if provider.restarts is None else ""),
                    member.serving,
                )
                for provider in sidecars
                for member in provider.members
            ),
        )
        restarts = CounterMetricFamily(
            "penstock_sidecar_restarts",
            "Times that the gateway started a sidecar again.",
            labels=("provider",),
        )
        for provider in sidecars:
            if provider.restarts is not None:
                restarts.add_metric((provider.name,), provider.restarts)
        yield restarts


def _gauge(
    name: str,
    what: str,
    labels: Sequence[str],
    values: Iterable[tuple[Sequence[str], float]],
) -> Metric:
    gauge = GaugeMetricFamily(name, what, labels=labels)
    for value in values:
        gauge.add_metric(*value)
    return gauge
