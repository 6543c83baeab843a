"""A provider whose behaviour the model's name chooses, behind a real server on a real port.

It stands where a vendor or an engine would: everything between the caller and the seam is real.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc
from penstock import v1
from penstock_server.app import Server
from penstock_server.config import ServerConfig
from penstock_server.errors import Failure
from penstock_server.identity import Door
from penstock_server.providers import Call, Events, HealthListener, Provider
from penstock_server.providers.assembler import Assembler

WORDS = ("Water ", "flows ", "down. ")


class ScriptedProvider(Provider):
    """Answers `WORDS`, or does what the model's name says.

    ``slow`` waits for `resume` after the first word; ``fail`` fails before anything, ``break``
    after the first word; ``bug`` raises what is no Failure; ``short`` never completes; ``many``
    answers 2,000 deltas.
    """

    def __init__(self, name: str = "test") -> None:
        super().__init__(name)
        self.resume = asyncio.Event()
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.closed = 0
        self.calls: list[Call] = []
        self.on_health: HealthListener = lambda healthy: None

    async def start(self, on_health: HealthListener) -> None:
        self.on_health = on_health
        on_health(True)

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        self.calls.append(call)
        assembler = Assembler("answer-1", self.full_name(model), call.arrived)
        try:
            if model == "fail":
                raise Failure(
                    v1.ERROR_REASON_PROVIDER_RATE_LIMITED,
                    "the provider's limit is reached",
                    retry_delay=1.5,
                    provider=self.name,
                )
            if model == "bug":
                raise ZeroDivisionError("a bug")
            yield assembler.started()
            words = [f"{n} " for n in range(2_000)] if model == "many" else WORDS
            for number, word in enumerate(words):
                for event in assembler.add("text", word):
                    yield event
                if number == 0:
                    self.begun.set()
                    if model == "slow":
                        await self.resume.wait()
                    if model == "break":
                        raise Failure(v1.ERROR_REASON_PROVIDER_PROTOCOL, "broken in the middle")
            if model == "short":
                return
            for event in assembler.complete(v1.FINISH_REASON_STOP, v1.Usage(output_tokens=3)):
                yield event
        finally:
            self.closed += 1
            self.ended.set()

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        return [v1.Model(name=self.full_name("echo"), provider=self.name)]

    async def get_model(self, model: str, call: Call) -> v1.Model:
        if model != "echo":
            raise Failure(v1.ERROR_REASON_MODEL_NOT_FOUND, f"no model {model!r}", model=model)
        return v1.Model(name=self.full_name(model), provider=self.name)

    async def load_model(
        self, model: str, call: Call
    ) -> AsyncGenerator[v1.LoadModelResponse, None]:
        for progress in (0.5, 1.0):
            yield v1.LoadModelResponse(progress=progress, stage="reading")

    async def pull_model(
        self, model: str, call: Call
    ) -> AsyncGenerator[v1.PullModelResponse, None]:
        for completed in (50, 100):
            yield v1.PullModelResponse(stage="pulling", completed_bytes=completed, total_bytes=100)


class FailingProvider(ScriptedProvider):
    """Cannot list its models: by a failure, a bug, or by never answering."""

    def __init__(self, name: str, how: str) -> None:
        super().__init__(name)
        self.how = how

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        if self.how == "bug":
            raise ZeroDivisionError("a bug")
        if self.how == "hang":
            await asyncio.Event().wait()
        raise Failure(v1.ERROR_REASON_PROVIDER_UNAVAILABLE, "not there", retry_delay=2.0)


@asynccontextmanager
async def serving(
    *providers: Provider,
    config: ServerConfig | None = None,
    aliases: Mapping[str, str] | None = None,
    linked: bool = False,
    routes: Sequence[Provider] = (),
    door: Door | None = None,
) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    """A real server on a free port, and a channel to it."""
    config = config or ServerConfig.model_validate(
        {"listen": ["127.0.0.1:0"], "shutdown": {"notice": 0, "drain": 1}}
    )
    server = Server(config, providers, aliases, linked, routes, door)
    await server.start()
    # The messages that tests send may be larger than any limit.
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(server.addresses[0], options=options) as channel:
            yield server, channel
    finally:
        await server.stop()
