"""What a vendor's table of test cases is made of.

A vendor's file in ``tests/providers/vendors/`` writes exchanges in the vendor's documented format,
with the oddities of the real thing, and says what they mean in ours. ``test_vendors.py`` puts every
case through everything: whole, streamed, cut anywhere, sync, aio, over real HTTP and real gRPC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock import v1
from penstock_server.providers.http_provider import HttpProvider

FEATURES = (
    "text",
    "tools",
    "parallel tools",
    "tool round trip",
    "image in",
    "document in",
    "audio in",
    "JSON object",
    "JSON schema",
    "thinking",
    "thinking round trip",
    "logprobs",
    "refusal",
    "usage",
    "finish reasons",
    "sampling",
    "opaque parts",
)
"""The rows of the matrix in docs/providers.md. Each vendor needs "text", "usage", …; a feature that
a vendor's API does not have is simply without cases (and the provider refuses it)."""


@dataclass(frozen=True)
class Case:
    """One exchange.

    ``request`` is what the caller asks (the model is filled in); ``asked`` what the upstream must
    have been sent, as a subset of its JSON body: mappings are compared key by key, everything else
    exactly. ``stream`` and ``whole`` are the vendor's answers, byte for byte; they have to mean the
    same. ``answer`` is what both mean: a whole GenerateResponse but for model, timings and
    provider_metadata (which is compared only where the case sets it).
    """

    feature: str
    name: str
    stream: bytes
    whole: bytes
    answer: v1.GenerateResponse
    request: v1.GenerateRequest = field(default_factory=lambda: v1.GenerateRequest(prompt="Hi"))
    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BadAnswer:
    """An error, and what it means.

    ``reason`` is the contract's, without prefix. ``whole`` is the body with HTTP ``status`` and
    ``headers`` (both flavours, unary and stream, get this). ``in_stream`` is an error after 200 OK:
    bytes that come after the vendor's ``Vendor.opening``; then ``whole`` may be None.
    """

    name: str
    reason: str
    status: int = 200
    whole: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    in_stream: bytes | None = None
    retry_delay: float | None = None


@dataclass(frozen=True)
class Vendor:
    """A provider and its cases.

    ``make`` connects one to a base URL (without a path: "http://127.0.0.1:1234"), with settings
    such as ``patience``; ``model`` is the name to ask for. ``opening`` is how a stream begins, up
    to and with its first delta of text. ``key`` is the key that ``make`` gives it: it must never
    show.
    """

    name: str
    make: Callable[..., HttpProvider]
    cases: tuple[Case, ...]
    errors: tuple[BadAnswer, ...]
    opening: bytes
    model: str = "m"
    stream_type: str = "text/event-stream"
    key: str = ""
    like: str = ""
    """The vendor whose code this one shares: what is not tested here is tested there."""
