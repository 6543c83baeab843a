"""Several keys of one model: two providers and a route share the load, and heed Retry-After."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from penstock import v1
from penstock_server.config import GatewayConfig
from penstock_server.gateway import Gateway
from penstock_server.routes import RouteProvider

from tests.providers import upstream as http
from tests.providers.upstream import Received, Script
from tests.support.processes import until
from tests.support.scripted import serving

PAUSE = 1.0


def settings(url: str) -> GatewayConfig:
    return GatewayConfig.model_validate(
        {
            "providers": {
                name: {"kind": "openai-compatible", "base_url": url, "api_key_env": f"KEY_{name}"}
                for name in ("ours", "theirs")
            },
            "routes": {"m": {"targets": ["ours/m", "theirs/m"], "strategy": "least_busy"}},
        }
    )


class Vendor:
    """Counts by keys, and has enough of one of them when it is told to."""

    def __init__(self, upstream: http.Upstream) -> None:
        self.asked: Counter[str] = Counter()
        self.limited_at: float | None = None
        self.early = 0
        """How often the key that was limited came before its time."""
        upstream.otherwise = self._answer

    def limit(self) -> None:
        """The next request with the first key is refused."""
        self.limited_at = 0.0

    def _answer(self, request: Received) -> Script:
        if not request.path.endswith("/chat/completions"):
            return http.as_json({"data": [{"id": "m"}]})
        key = request.headers["authorization"].removeprefix("Bearer ")
        self.asked[key] += 1
        if key == "sk-1" and self.limited_at == 0.0:
            self.limited_at = time.monotonic()
            error = {"error": {"message": "Rate limit reached", "type": "requests"}}
            return http.as_json(error, 429, retry_after=f"{PAUSE:.0f}")
        if key == "sk-1" and self.limited_at and time.monotonic() < self.limited_at + PAUSE:
            self.early += 1
        answer = http.as_json(http.completion({"content": "Here."}))
        return Script([0.01, *answer.body], 200, answer.headers)


async def test_two_keys_share_the_load(report: Callable[[str], None]) -> None:
    async with http.serving() as upstream:
        vendor = Vendor(upstream)
        config = settings(upstream.url)
        assembly = Gateway({"KEY_ours": "sk-1", "KEY_theirs": "sk-2"}).assemble(config)
        (route,) = assembly.routes
        assert isinstance(route, RouteProvider)
        async with serving(*assembly.providers, routes=[route]) as (_, channel):
            stub = v1.GenerationServiceStub(channel)

            async def ask() -> v1.GenerateResponse:
                return await stub.Generate(v1.GenerateRequest(model="m", prompt="Hi"), timeout=20)

            for _ in range(10):
                await asyncio.gather(*(ask() for _ in range(20)))
            assert vendor.asked.total() == 200
            assert min(vendor.asked.values()) >= 80
            report(f"200 calls: {dict(vendor.asked)}")

            vendor.asked.clear()
            vendor.limit()
            while vendor.limited_at == 0.0:
                answers = await asyncio.gather(*(ask() for _ in range(8)))
            refused = [a for a in answers if a.attempts]
            assert refused  # and answered by the other key
            assert {a.model for a in refused} == {"theirs/m"}
            began = time.monotonic()
            vendor.early = 0  # those that were under way when the first was refused
            vendor.asked.clear()
            while not vendor.asked["sk-1"]:
                await ask()
            took = time.monotonic() - began
            assert vendor.early == 0
            assert PAUSE * 0.8 < took < PAUSE * 3
            report(f"a key limited for {PAUSE} s was asked again after {took:.2f} s; meanwhile the "
                   f"other one answered {vendor.asked['sk-2']} calls, none failed")  # fmt: skip
            await until(lambda: not any(t.outstanding for t in route.targets))
