"""A whole path to stand on: an upstream for each vendor, a server over all, clients before it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from penstock import v1

from tests.providers.cases import Case, Vendor
from tests.providers.upstream import Script, Upstream, serving
from tests.support import scripted
from tests.support.flavours import FLAVOURS, LoopThread


def slug(vendor: Vendor) -> str:
    """A vendor's name as a provider's."""
    return re.sub(r"[^a-z0-9]+", "-", vendor.name.lower()).strip("-")


def root(upstream: Upstream) -> str:
    """The upstream's address, without a path."""
    return upstream.url.removesuffix("/v1")


class Bench:
    """The path, in an event loop of its own: what is told to an upstream here, happens there."""

    def __init__(self) -> None:
        self.loop = LoopThread()
        self.upstreams: dict[str, Upstream] = {}
        self.clients: dict[str, Any] = {}
        self._stack = AsyncExitStack()

    def start(self, vendors: Sequence[Vendor]) -> None:
        async def start() -> str:
            providers = []
            for vendor in vendors:
                upstream = await self._stack.enter_async_context(serving())
                self.upstreams[vendor.name] = upstream
                provider = vendor.make(slug(vendor), root(upstream))
                provider._local = False  # nobody looks at its health: every request is a test's
                providers.append(provider)
            server, _ = await self._stack.enter_async_context(scripted.serving(*providers))
            return server.addresses[0]

        address = self.loop.run(start())
        # The clients' own retries, for UNAVAILABLE, would only take time.
        options = {"grpc.enable_retries": 0}
        self.clients = {name: make(address, options=options) for name, make in FLAVOURS.items()}

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        self.loop.run(self._stack.aclose())
        self.loop.close()

    def will(self, vendor: Vendor, script: Script) -> Upstream:
        """The next answer of the vendor's upstream."""
        upstream = self.upstreams[vendor.name]
        upstream.received.clear()
        upstream.otherwise = script  # the client asks again where it is told UNAVAILABLE
        return upstream


@contextmanager
def bench(vendors: Sequence[Vendor]) -> Iterator[Bench]:
    built = Bench()
    built.start(vendors)
    try:
        yield built
    finally:
        built.close()


def whole(case: Case) -> Script:
    headers = {"content-type": "application/json", "x-request-id": "req-1"}
    return Script([case.whole], 200, headers)


def streamed(vendor: Vendor, pieces: Sequence[bytes]) -> Script:
    headers = {"content-type": vendor.stream_type, "x-request-id": "req-1"}
    return Script(pieces, 200, headers)


def comparable(answer: v1.GenerateResponse, expected: v1.GenerateResponse) -> v1.GenerateResponse:
    """``answer`` without what differs between two askings, and what ``expected`` leaves open."""
    copy = v1.GenerateResponse()
    copy.CopyFrom(answer)
    copy.ClearField("timings")
    copy.ClearField("model")
    if not expected.id:
        copy.ClearField("id")
    for name in copy.provider_metadata.fields.keys() - expected.provider_metadata.fields.keys():
        del copy.provider_metadata.fields[name]
    if not expected.HasField("provider_metadata"):
        copy.ClearField("provider_metadata")
    for part, wanted in zip(copy.message.parts, expected.message.parts, strict=False):
        if wanted.HasField("tool_call") and not wanted.tool_call.id:
            assert part.tool_call.id or answer is expected, "a call without an id"
            part.tool_call.id = ""
    return copy


def contains(sent: Any, asked: Any, path: str = "") -> Iterator[str]:
    """Where ``sent`` differs from what was ``asked`` for: mappings key by key, the rest exactly."""
    if isinstance(asked, dict) and isinstance(sent, dict):
        for key, value in asked.items():
            if key not in sent:
                yield f"{path}.{key}: is missing"
            else:
                yield from contains(sent[key], value, f"{path}.{key}")
    elif isinstance(asked, list) and isinstance(sent, list) and len(asked) == len(sent):
        for index, (one, other) in enumerate(zip(sent, asked, strict=True)):
            yield from contains(one, other, f"{path}[{index}]")
    elif sent != asked:
        yield f"{path}: {sent!r} instead of {asked!r}"
