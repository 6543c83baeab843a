"""What every provider behind HTTP has in common: write, ask, read, and let go.

A vendor's provider says how a request is written and how an answer is read; connections belong to
``transport``. Nothing is retried here: the server has one retry policy (``retry``), not a stack.
"""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, TypeVar

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers import Call, Events, HealthListener, Provider
from penstock_server.providers.answer import Answer, Asked
from penstock_server.providers.transport.errors import ErrorReader
from penstock_server.providers.transport.reply import Reply
from penstock_server.providers.transport.upstream import HttpUpstream

LISTING_TIMEOUT = 5.0
"""Seconds that a server has to say something about its models."""

LOOK_AGAIN = 10.0
"""Seconds between two looks at whether a server on the user's own machine is running."""

JSON: Mapping[str, str] = {"content-type": "application/json"}

# A server that cannot stream answers whole; one that is a web site, with a page.
_NOT_A_STREAM = re.compile(r"json\b(?!.*stream)(?<!x-ndjson)|html", re.IGNORECASE)

_NOT_THERE = frozenset({v1.ERROR_REASON_PROVIDER_UNAVAILABLE, v1.ERROR_REASON_PROVIDER_TIMEOUT})

T = TypeVar("T")


class Written(NamedTuple):
    """A request in the vendor's words."""

    path: str
    body: bytes
    headers: Mapping[str, str] = JSON


class HttpProvider(Provider):
    """Answers by asking an HTTP server.

    ``local`` says that the server runs on the user's own machine, and so comes and goes: its health
    is looked at. Whether a hosted one is well is for its answers to show.

    Concurrency: calls do not touch each other; one connection each, on one event loop.
    """

    def __init__(
        self, name: str, upstream: HttpUpstream, errors: ErrorReader, *, local: bool = False
    ) -> None:
        super().__init__(name)
        self._upstream = upstream
        self._errors = errors
        self._local = local
        self._looking: asyncio.Task[None] | None = None

    @abstractmethod
    def _write(self, model: str, request: v1.GenerateRequest, *, stream: bool) -> Written:
        """The request; UNSUPPORTED_FEATURE and INVALID_REQUEST as needed."""

    @abstractmethod
    def _answer(self, asked: Asked) -> Answer:
        """The reader for the answer."""

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        """Answer as the model writes; leaving the iterator closes the upstream's connection."""
        answer = self._answer(self._asked(model, request, call))
        with self._about(model):
            written = self._write(model, request, stream=True)
        async with self._ask(written, model) as reply:
            self._note_request(reply, answer)
            if _NOT_A_STREAM.search(reply.headers.get("content-type", "")):
                answer.whole(await reply.read())
                answer.ended = True
            waiting = True
            while not answer.ended:
                failure: Failure | None = None
                try:
                    answer.feed(await reply.more())
                except Failure as error:
                    failure = error
                if waiting and answer.begun:
                    waiting = False
                    reply.begun()
                for event in answer.events():  # also what came before a failure in the same read
                    yield event
                if failure is not None:
                    raise failure
            reply.whole = True
            for event in answer.complete():
                yield event

    async def generate(
        self, model: str, request: v1.GenerateRequest, call: Call
    ) -> v1.GenerateResponse:
        """Answer whole, which costs less than a stream."""
        answer = self._answer(self._asked(model, request, call))
        with self._about(model):
            written = self._write(model, request, stream=False)
        async with self._ask(written, model) as reply:
            self._note_request(reply, answer)
            answer.whole(await reply.read())
            return answer.complete()[-1].completed

    async def start(self, on_health: HealthListener) -> None:
        """Healthy from now on; a server on the user's own machine, while it is running."""
        if self._local:
            self._looking = asyncio.create_task(self._look(on_health))
        else:
            on_health(True)

    async def close(self) -> None:
        """Close all connections."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._upstream.close()

    async def _alive(self) -> None:
        """Ask for something cheap; raise `Failure` where nobody answers."""
        await self.list_models(Call("health"))

    async def _look(self, on_health: HealthListener) -> None:
        while True:
            try:
                await self._alive()
            except Failure as failure:
                on_health(failure.reason not in _NOT_THERE)
            else:
                on_health(True)
            await asyncio.sleep(LOOK_AGAIN)

    @asynccontextmanager
    async def _ask(self, written: Written, model: str) -> AsyncIterator[Reply]:
        """Post a request; anything but success is raised."""
        async with self._upstream.request(
            "POST",
            written.path,
            written.body,
            headers=written.headers,
            model=self.full_name(model),
        ) as reply:
            await self._check(reply)
            yield reply

    async def _get(self, path: str, read: Callable[[bytes], T], model: str = "") -> T:
        """Get something small about models (or one), within ``LISTING_TIMEOUT``."""
        about = {"model": self.full_name(model)} if model else {}
        try:
            async with (
                asyncio.timeout(LISTING_TIMEOUT),
                self._upstream.request("GET", path, None, headers=None, **about) as reply,
            ):
                await self._check(reply)
                return self._errors.decoded(read, await reply.read())
        except TimeoutError:
            raise self._silent() from None

    def _silent(self) -> Failure:
        return Failure(
            v1.ERROR_REASON_PROVIDER_TIMEOUT,
            f"provider {self.name!r} did not say what models it has within {LISTING_TIMEOUT:g} s",
            provider=self.name,
        )

    async def _check(self, reply: Reply) -> None:
        if not 200 <= reply.status < 300:
            raise self._errors.failure(
                await reply.read(), status=reply.status, headers=reply.headers
            )

    @contextmanager
    def _about(self, model: str) -> Iterator[None]:
        """Say of failures that come before any request whom they are about."""
        try:
            yield
        except Failure as failure:
            failure.metadata |= {"model": self.full_name(model), "provider": self.name}
            raise

    def _no_such_model(self, model: str, hint: str = "") -> Failure:
        message = f"provider {self.name!r} does not list a model {model!r}"
        return Failure(
            v1.ERROR_REASON_MODEL_NOT_FOUND,
            f"{message} ({hint})" if hint else message,
            model=self.full_name(model),
            provider=self.name,
        )

    def _asked(self, model: str, request: v1.GenerateRequest, call: Call) -> Asked:
        return Asked(self.name, self.full_name(model), request, call, self._errors)

    def _note_request(self, reply: Reply, answer: Answer) -> None:
        if request_id := self._upstream.request_id(reply):
            answer.about["upstream_request_id"] = request_id
