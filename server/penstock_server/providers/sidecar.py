"""Forwards to sidecars: the same contract on both sides, so that only the model's name changes.

Deadline and cancellation are gRPC's own: a cancelled forwarding cancels the sidecar's call. What
a sidecar reports as a failure passes through as it is; what this room adds is the truth about
sidecars that are not there, or are no longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import grpc
from penstock import v1
from penstock.errors import from_rpc_error

from penstock_server.errors import Failure
from penstock_server.providers import Call, Events, HealthListener, Provider, link, watchdog
from penstock_server.providers.affinity import beginning
from penstock_server.providers.pool import Member, Pool, Watched
from penstock_server.tls import ChannelCertificates

SIDECAR_PROVIDER = "local"
"""What every sidecar calls its own provider: "gpu/llama" here is "local/llama" there."""

EMBEDDING_SERVICE = "penstock.v1.EmbeddingService"

REQUEST_ID_HEADER = "x-request-id"
CALLER_HEADER = "x-penstock-caller"

# A lost connection is noticed at once, the process's exit code a moment later.
_EXIT_PATIENCE = 0.5

# A listing tells what there is now; it does not wait for what may come.
_LISTING_PATIENCE = 1.0

# From this many crashes in a row on, callers are told at once instead of waiting for a start.
_HOPELESS = 2

Answer = TypeVar("Answer")
Sent = TypeVar("Sent", covariant=True)


class Stream(Protocol[Sent]):
    """A call whose answer is a stream."""

    def __aiter__(self) -> AsyncIterator[Sent]:
        """What comes."""

    def cancel(self) -> object:
        """Want no more of it."""


class Process(Protocol):
    """What is to be known of a process that the gateway started itself."""

    crashes: int
    starts: int

    @property
    def last_exit(self) -> object | None:
        """How it ended last."""

    @property
    def pid(self) -> int | None:
        """The running process's id; None while there is none."""

    @property
    def retry_delay(self) -> float:
        """Seconds until it is started again."""

    def start(self) -> None:
        """Begin to keep it running."""

    def proved(self) -> None:
        """It was seen to be in good health."""

    async def exit_after(self, moment: float, patience: float) -> object | None:
        """How it ended since ``moment``, if it did."""

    def kill(self) -> None:
        """End it at once."""

    async def stop(self) -> None:
        """Stop it."""


class SidecarProvider(Provider):
    """A pool of sidecars that own the same models.

    ``process`` is given where the gateway started the (one) sidecar itself; ``ready_timeout`` is
    how many seconds a call waits for a sidecar that is starting, ``silence_timeout`` how many
    seconds ``process`` may leave unanswered before it is killed (0: for ever); ``tls`` is how
    addresses that are no Unix sockets are reached, in the clear by default; ``affinity``: prompts
    that begin alike go to the same one of several sidecars, for the sake of its caches.
    """

    def __init__(
        self,
        name: str,
        addresses: Sequence[str],
        process: Process | None = None,
        ready_timeout: float = 60.0,
        silence_timeout: float = 0.0,
        tls: ChannelCertificates | None = None,
        affinity: bool = True,
    ) -> None:
        super().__init__(name)
        self._addresses = addresses
        self._process = process
        self._ready_timeout = ready_timeout
        self._silence_timeout = silence_timeout
        self._watching: asyncio.Task[None] | None = None
        self._tls = tls
        self._affinity = affinity
        self._on_health: HealthListener = lambda healthy: None

    async def start(self, on_health: HealthListener) -> None:
        """Start the process, where it is ours, and watch the members' health."""
        self._on_health = on_health
        self._pool = Pool(
            self._addresses,
            Watched(f"provider/{SIDECAR_PROVIDER}", EMBEDDING_SERVICE, link.SERVICE),
            self._members_changed,
            self._tls,
            self._affinity,
        )
        if self._process is not None:
            self._process.start()
            if self._silence_timeout:
                self._watching = asyncio.create_task(
                    watchdog.watch(
                        self.name, self._process, self.members[0].answers, self._silence_timeout
                    )
                )

    async def close(self) -> None:
        """Close the connections, then stop the process."""
        if self._watching is not None:
            self._watching.cancel()
        await self._pool.close()
        if self._process is not None:
            await self._process.stop()

    @property
    def members(self) -> Sequence[Member]:
        """The sidecars."""
        return self._pool.members

    @property
    def restarts(self) -> int | None:
        """How often the gateway started it again; None where it does not."""
        return None if self._process is None else max(0, self._process.starts - 1)

    @property
    def embeds(self) -> bool:
        """Whether some sidecar says that it embeds."""
        return any(member.embeds for member in self.members)

    def _members_changed(self) -> None:
        process = self._process
        if self._pool.serving:
            if process is not None:
                process.proved()
            self._on_health(True)
        elif any(m.connected and m.failed for m in self.members):
            self._on_health(False)
        elif process is None or process.last_exit is not None:
            self._on_health(False)  # else it is on its way, and nothing is known yet

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        """Forward the events, with our name for the model."""
        outgoing = v1.StreamGenerateRequest(request=request)
        outgoing.request.model = f"{SIDECAR_PROVIDER}/{model}"
        full_name = self.full_name(model)
        async for event in self._stream(
            lambda m: m.generation(outgoing).StreamGenerate,
            outgoing,
            model,
            call,
            key=self._beginning(request),
        ):
            kind = event.WhichOneof("event")
            if kind == "started":
                event.started.model = full_name
            elif kind == "completed":
                event.completed.model = full_name
            yield event

    async def generate(
        self, model: str, request: v1.GenerateRequest, call: Call
    ) -> v1.GenerateResponse:
        """Forward as a unary call: one message instead of one for each step."""
        outgoing = v1.GenerateRequest()
        outgoing.CopyFrom(request)
        outgoing.model = f"{SIDECAR_PROVIDER}/{model}"
        response = await self._unary(
            lambda m: m.generation(outgoing).Generate,
            outgoing,
            model,
            call,
            key=self._beginning(request),
        )
        response.model = self.full_name(model)
        return response

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        """Forward."""
        outgoing = v1.EmbedRequest()
        outgoing.CopyFrom(request)
        outgoing.model = f"{SIDECAR_PROVIDER}/{model}"
        response = await self._unary(lambda m: m.embeddings.Embed, outgoing, model, call)
        response.model = self.full_name(model)
        return response

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        """What one of the members lists: they own the same models."""
        response = await self._unary(
            lambda m: m.models.ListModels,
            v1.ListModelsRequest(),
            "",
            call,
            patience=_LISTING_PATIENCE,
        )
        return [self._renamed(model) for model in response.models]

    async def get_model(self, model: str, call: Call) -> v1.Model:
        """What one of the members says of it."""
        request = v1.GetModelRequest(model=f"{SIDECAR_PROVIDER}/{model}")
        response = await self._unary(lambda m: m.models.GetModel, request, model, call)
        return self._renamed(response.model)

    async def load_model(
        self, model: str, call: Call
    ) -> AsyncGenerator[v1.LoadModelResponse, None]:
        """Forward to every member, one after the other; progress is the whole pool's."""
        await self._member()
        members = [m for m in self.members if m.connected]
        request = v1.LoadModelRequest(model=f"{SIDECAR_PROVIDER}/{model}")
        for done, member in enumerate(members):
            async for step in self._stream(
                lambda m: m.models.LoadModel, request, model, call, only=member
            ):
                step.progress = (done + step.progress) / len(members)
                if step.HasField("model"):
                    step.model.CopyFrom(self._renamed(step.model))
                yield step

    async def unload_model(self, model: str, call: Call) -> v1.Model:
        """Forward to every member."""
        await self._member()
        request = v1.UnloadModelRequest(model=f"{SIDECAR_PROVIDER}/{model}")
        answers = await asyncio.gather(
            *(
                self._unary(lambda m: m.models.UnloadModel, request, model, call, only=member)
                for member in self.members
                if member.connected
            )
        )
        return self._renamed(answers[0].model)

    def _beginning(self, request: v1.GenerateRequest) -> bytes | None:
        return beginning(request) if self._pool.affine else None

    def _renamed(self, model: v1.Model) -> v1.Model:
        model.name = self.full_name(model.name.partition("/")[2])
        model.provider = self.name
        return model

    async def _unary(
        self,
        method: Callable[[Member], Callable[..., Awaitable[Answer]]],
        request: object,
        model: str,
        call: Call,
        only: Member | None = None,
        patience: float | None = None,
        key: bytes | None = None,
    ) -> Answer:
        """Ask a member, and another one where it turns out not to be there."""
        tried: list[Member] = []
        while True:
            member = only or await self._member(tried, patience, key)
            tried.append(member)
            started = time.monotonic()
            try:
                with _counted(member):
                    return await method(member)(
                        request, timeout=call.remaining(), metadata=_metadata(call)
                    )
            except grpc.aio.AioRpcError as error:
                failure = await self._failure(error, member, model, started, begun=False)
                if only or not self._another(failure, tried):
                    raise failure from error

    async def _stream(
        self,
        method: Callable[[Member], Callable[..., Stream[Answer]]],
        request: object,
        model: str,
        call: Call,
        only: Member | None = None,
        key: bytes | None = None,
    ) -> AsyncGenerator[Answer, None]:
        """The same for a stream; once something has come, it is this member's or nobody's."""
        tried: list[Member] = []
        while True:
            member = only or await self._member(tried, key=key)
            tried.append(member)
            started = time.monotonic()
            begun = False
            upstream = method(member)(request, timeout=call.remaining(), metadata=_metadata(call))
            try:
                with _counted(member):
                    async for event in upstream:
                        begun = True
                        yield event
                return
            except grpc.aio.AioRpcError as error:
                failure = await self._failure(error, member, model, started, begun)
                if only or begun or not self._another(failure, tried):
                    raise failure from error
            finally:
                # Without this the sidecar would go on computing for a caller who has gone.
                upstream.cancel()

    def _another(self, failure: Failure, tried: Sequence[Member]) -> bool:
        """Whether another member may do what one that is not there could not."""
        elsewhere = (v1.ERROR_REASON_SIDECAR_UNAVAILABLE, v1.ERROR_REASON_SHUTTING_DOWN)
        return failure.reason in elsewhere and self._pool.pick(tried) is not None

    async def _member(
        self,
        excluded: Sequence[Member] = (),
        patience: float | None = None,
        key: bytes | None = None,
    ) -> Member:
        """The next member; waits for one that is starting, ``patience`` seconds at most."""
        wait = self._ready_timeout if patience is None else patience
        give_up = time.monotonic() + wait
        while (member := self._pool.pick(excluded, key)) is None:
            waited_enough = time.monotonic() >= give_up
            process = self._process
            if waited_enough or (process is not None and process.crashes >= _HOPELESS):
                raise self._unavailable()
            changed = asyncio.ensure_future(self._pool.change())
            # Looked at again now and then: a crash changes no member.
            await asyncio.wait([changed], timeout=0.2)
            changed.cancel()
        return member

    def _unavailable(self) -> Failure:
        process = self._process
        if process is None:
            told = [f"{m.address}: {m.trouble}" for m in self.members if m.trouble]
            return Failure(
                v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
                f"no sidecar of provider {self.name!r} answers at {', '.join(self._addresses)}; "
                + ("; ".join(told) or "is it running there?"),
                provider=self.name,
                retry_delay=1.0,
            )
        ended = process.last_exit
        story = f"its sidecar {ended}" if ended else "its sidecar is still starting"
        return Failure(
            v1.ERROR_REASON_SIDECAR_UNAVAILABLE,
            f"provider {self.name!r} cannot answer: {story}",
            retry_delay=max(1.0, process.retry_delay),
            provider=self.name,
            extra=_exit_code(ended),
        )

    async def _failure(
        self, error: grpc.aio.AioRpcError, member: Member, model: str, started: float, begun: bool
    ) -> Failure:
        """What a failed forwarding means."""
        own = Failure.from_penstock(from_rpc_error(error))
        if own is not None:
            own.metadata |= {"model": self.full_name(model), "provider": self.name}
            own.metadata.pop("request_id", None)  # ours is the same, and is added at the door
            return own
        known = {"provider": self.name, "upstream_status": error.code().name}
        if model:
            known["model"] = self.full_name(model)
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Failure(
                v1.ERROR_REASON_PROVIDER_TIMEOUT, "the sidecar did not answer in time", extra=known
            )
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return Failure(
                v1.ERROR_REASON_PROVIDER_PROTOCOL,
                f"the sidecar at {member.address} answered what no sidecar should: "
                f"{error.code().name}: {error.details()}",
                extra=known,
            )
        member.lost()
        ended = None
        if self._process is not None:
            ended = await self._process.exit_after(started, _EXIT_PATIENCE)
        if not begun and ended is None:
            return self._unavailable()
        story = str(ended) if ended else f"no longer answers at {member.address}"
        return Failure(
            v1.ERROR_REASON_SIDECAR_LOST,
            f"the sidecar of provider {self.name!r} {story}; what came before is incomplete",
            retry_delay=1.0,
            extra=known | _exit_code(ended),
        )


def _metadata(call: Call) -> tuple[tuple[str, str], ...]:
    # To the sidecar all calls come by one connection, the gateway's: only this tells callers apart.
    caller = ((CALLER_HEADER, call.caller),) if call.caller else ()
    return ((REQUEST_ID_HEADER, call.request_id), *caller)


def _exit_code(ended: object | None) -> dict[str, str]:
    code = getattr(ended, "code", None)
    return {} if code is None else {"exit_code": str(code)}


@contextmanager
def _counted(member: Member) -> Iterator[None]:
    member.outstanding += 1
    try:
        yield
    finally:
        member.outstanding -= 1
