"""The one seam: what a provider is to the rest of the server.

A provider translates between ``penstock.v1`` and whatever runs the model. It knows nothing of
gRPC's server side, of other providers, or of callers; it raises `Failure` and nothing else.
Names that it hands out are full ones ("local/tiny"); names that it is given are its own ("tiny").
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.retry import NEVER, RetryPolicy

if TYPE_CHECKING:
    from penstock_server.limits import Limiter

Events = AsyncGenerator[v1.StreamGenerateResponse, None]
"""The events of one answer. A generator, so that whoever reads it can close it."""

HealthListener = Callable[[bool], None]
"""Told whenever a provider is (True) or is not (False) able to answer; not while it starts."""


@dataclass(slots=True, frozen=True)
class Call:
    """What a provider may know of the call it answers.

    ``deadline`` is on `time.monotonic`'s clock, None where the caller set none. Providers need
    not enforce it (their task is cancelled when it passes), but pass it on and plan within it.
    ``caller`` tells callers apart, so that they can take turns: who the caller is known to be, or
    else, which proves nothing, a name that it gave itself or an address, or empty.
    """

    request_id: str
    deadline: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    caller: str = ""

    def remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


class Provider(ABC):
    """Answers for the models under one name.

    Every method that takes a ``call`` may be cancelled at any ``await``; a provider then stops
    its upstream before it lets go (clean up in ``finally``). `stream` is closed with ``aclose``
    by its caller, always.
    """

    retry: RetryPolicy = NEVER
    """What is tried again when it fails for a moment; by whoever asks the provider, not by it."""

    limiter: Limiter | None = None
    """How much it may be asked for; kept to by whoever asks it, too."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        """Answer as the model writes: the events of ``StreamGenerate``, ``completed`` last."""

    async def generate(
        self, model: str, request: v1.GenerateRequest, call: Call
    ) -> v1.GenerateResponse:
        """Answer whole. By default what `stream` completes with; override where cheaper."""
        async with aclosing(self.stream(model, request, call)) as events:
            async for event in events:
                if event.WhichOneof("event") == "completed":
                    return event.completed
        raise Failure(
            v1.ERROR_REASON_PROVIDER_PROTOCOL,
            f"provider {self.name!r} ended its answer without completing it; "
            "ask again, and report it if it happens again",
        )

    @abstractmethod
    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        """All models, in any order."""

    @abstractmethod
    async def get_model(self, model: str, call: Call) -> v1.Model:
        """One model, or MODEL_NOT_FOUND."""

    def load_model(self, model: str, call: Call) -> AsyncGenerator[v1.LoadModelResponse, None]:
        """Bring a model into memory, reporting progress."""
        raise self.unsupported("LoadModel", model)

    def pull_model(self, model: str, call: Call) -> AsyncGenerator[v1.PullModelResponse, None]:
        """Fetch a model that the provider does not have yet, reporting progress."""
        raise self.unsupported("PullModel", model)

    async def unload_model(self, model: str, call: Call) -> v1.Model:
        """Free a model's memory."""
        raise self.unsupported("UnloadModel", model)

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        """One vector for each input."""
        raise self.unsupported("Embed", model)

    @property
    def embeds(self) -> bool:
        """Whether some of its models answer `embed`."""
        return type(self).embed is not Provider.embed

    async def start(self, on_health: HealthListener) -> None:
        """Begin; return at once, and tell ``on_health`` whenever the truth changes.

        By default a provider is healthy from its start: right for one that holds no process
        and no connection of its own.
        """
        on_health(True)

    async def close(self) -> None:  # noqa: B027 # most have nothing to let go of
        """Let go of everything. Called once, after the last call has ended."""

    def full_name(self, model: str) -> str:
        """The name that callers know a model by."""
        return f"{self.name}/{model}"

    def unsupported(self, feature: str, model: str) -> Failure:
        """The failure for something that this provider does not do."""
        return Failure.unsupported(
            feature,
            f"{feature} is not supported by provider {self.name!r}",
            model=self.full_name(model),
            provider=self.name,
        )
