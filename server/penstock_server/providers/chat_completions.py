"""A provider for anything that speaks OpenAI's Chat Completions API over HTTP.

This room only joins the others: ``chat_request`` writes what is asked, ``http_upstream`` carries
it, ``sse`` and ``chat_answer`` read what comes back, ``chat_errors`` what went wrong, ``known``
says how servers differ. Nothing is retried here: the gateway has one retry policy, not a stack.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers import Call, Events, HealthListener, Provider
from penstock_server.providers.chat_answer import Answer
from penstock_server.providers.chat_errors import ErrorReader
from penstock_server.providers.chat_json import (
    AnswerJson,
    ModelJson,
    decode_answer,
    decode_embeddings,
    decode_models,
)
from penstock_server.providers.chat_request import RequestWriter
from penstock_server.providers.http_reply import Reply
from penstock_server.providers.http_upstream import HttpUpstream, Patience
from penstock_server.providers.known import KNOWN, OTHER
from penstock_server.providers.sse import EventStream, EventTooLong

LISTING_TIMEOUT = 5.0
"""Seconds that a server has to list its models."""

LOOK_AGAIN = 10.0
"""Seconds between two looks at whether a server on the user's own machine is running."""

_JSON = {"content-type": "application/json"}

# A server that cannot stream answers whole; one that is a web site, with a page.
_NOT_A_STREAM = re.compile(r"json|html", re.IGNORECASE)

# Servers without a list of models answer one of these.
_NO_SUCH_METHOD = frozenset({404, 405, 501})

_NOT_THERE = frozenset({v1.ERROR_REASON_PROVIDER_UNAVAILABLE, v1.ERROR_REASON_PROVIDER_TIMEOUT})

T = TypeVar("T")


class ChatCompletionsProvider(Provider):
    """Answers for the models behind one base URL.

    ``kind`` is the server's row in ``known.KNOWN``; any other word means a server that nothing is
    known of, to which everything is passed on. ``connect_timeout`` is for a connection,
    ``first_byte_timeout`` from the request to the first byte of the answer, ``idle_timeout`` from
    one byte to the next, in seconds; running out of them is PROVIDER_TIMEOUT. Raises ValueError
    for a base URL or a key that cannot be right.

    ``GenerateRequest.provider_options`` are merged into the body: they are OpenAI's own parameters,
    or the server's. "model", "messages", "stream" and "n" cannot be set that way.

    Concurrency: calls do not touch each other; one connection each, on one event loop.

    Example::

        provider = ChatCompletionsProvider("gpu", "http://gpu:8000/v1")
        async for event in provider.stream("qwen3", request, call): ...
        await provider.close()
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str = "",
        *,
        kind: str = "openai-compatible",
        connect_timeout: float = 5.0,
        first_byte_timeout: float = 600.0,
        idle_timeout: float = 120.0,
    ) -> None:
        super().__init__(name)
        self._server = KNOWN.get(kind, OTHER)
        self._upstream = HttpUpstream(
            name,
            base_url,
            api_key,
            patience=Patience(
                connect=connect_timeout, first_byte=first_byte_timeout, idle=idle_timeout
            ),
            what_to_do=self._server.unreachable,
        )
        self._writer = RequestWriter(name, self._server)
        self._errors = ErrorReader(name, self._server.hints, self._upstream.redact)
        # Whether a hosted server is well is for its answers to show; asking costs, and is counted.
        self._comes_and_goes = kind in KNOWN and self._server.local
        self._looking: asyncio.Task[None] | None = None

    async def start(self, on_health: HealthListener) -> None:
        """Healthy from now on; a server on the user's own machine, while it is running."""
        if self._comes_and_goes:
            self._looking = asyncio.create_task(self._look(on_health))
        else:
            on_health(True)

    async def _look(self, on_health: HealthListener) -> None:
        while True:
            try:
                await self._listing()
            except Failure as failure:
                on_health(failure.reason not in _NOT_THERE)
            else:
                on_health(True)
            await asyncio.sleep(LOOK_AGAIN)

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        """Answer as the model writes; leaving the iterator closes the upstream's connection."""
        answer = self._answer(model, request, call)
        with self._about(model):
            body = self._writer.chat(model, request, stream=True)
        async with self._ask("/chat/completions", body, model) as reply:
            if _NOT_A_STREAM.search(reply.headers.get("content-type", "")):
                answer.hear(self._whole(await reply.read()))
                reply.whole = True
            stream = EventStream()
            while not reply.whole:
                failure: Failure | None = None
                try:
                    reply.whole = self._hear(stream, await reply.more(), answer)
                except Failure as error:
                    failure = error
                for event in answer.events():  # also what came before a failure in the same read
                    yield event
                if failure is not None:
                    raise failure
            for event in answer.complete():
                yield event

    async def generate(
        self, model: str, request: v1.GenerateRequest, call: Call
    ) -> v1.GenerateResponse:
        """Answer whole, which costs less than a stream."""
        answer = self._answer(model, request, call)
        with self._about(model):
            body = self._writer.chat(model, request, stream=False)
        async with self._ask("/chat/completions", body, model) as reply:
            answer.hear(self._whole(await reply.read()))
            return answer.complete()[-1].completed

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        """The server's own list. UNSUPPORTED_FEATURE where it has none."""
        return [self._model(listed) for listed in await self._listing()]

    async def get_model(self, model: str, call: Call) -> v1.Model:
        """One model of the server's list."""
        names = {model, f"{model}{self._server.default_tag}"}
        for listed in await self._listing():
            if listed.id in names:
                return self._model(listed)
        message = f"provider {self.name!r} does not list a model {model!r}"
        if hint := self._server.hints.get(v1.ERROR_REASON_MODEL_NOT_FOUND):
            message += f" ({hint})"
        raise Failure(
            v1.ERROR_REASON_MODEL_NOT_FOUND,
            message,
            model=self.full_name(model),
            provider=self.name,
        )

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        """One vector for each input."""
        if not self.embeds:
            raise self.unsupported("Embed", model)
        with self._about(model):
            body = self._writer.embed(model, request)
        async with self._ask("/embeddings", body, model) as reply:
            answer = self._decoded(decode_embeddings, await reply.read())
            vectors = sorted(answer.data, key=lambda vector: vector.index)
            if [vector.index for vector in vectors] != list(range(len(request.inputs))):
                raise self._errors.nonsense(
                    f"sent {len(vectors)} vectors for {len(request.inputs)} inputs"
                )
            return v1.EmbedResponse(
                model=self.full_name(model),
                embeddings=[v1.Embedding(values=vector.embedding) for vector in vectors],
                usage=answer.usage.to_proto() if answer.usage else None,
            )

    @property
    def embeds(self) -> bool:
        """Whether the server has an endpoint for it."""
        return "Embed" not in self._server.unsupported

    async def close(self) -> None:
        """Close all connections."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._upstream.close()

    def _answer(self, model: str, request: v1.GenerateRequest, call: Call) -> Answer:
        thinking = request.thinking
        return Answer(
            call.request_id,
            self.name,
            self.full_name(model),
            call.arrived,
            show_thinking=thinking.include or not thinking.HasField("include"),
        )

    @contextmanager
    def _about(self, model: str) -> Iterator[None]:
        """Say of failures that come before any request whom they are about."""
        try:
            yield
        except Failure as failure:
            failure.metadata |= {"model": self.full_name(model), "provider": self.name}
            raise

    @asynccontextmanager
    async def _ask(self, path: str, body: bytes, model: str) -> AsyncIterator[Reply]:
        """Post a body; anything but success is raised."""
        async with self._upstream.request(
            "POST", path, body, headers=_JSON, model=self.full_name(model)
        ) as reply:
            await self._check(reply)
            yield reply

    async def _check(self, reply: Reply) -> None:
        if not 200 <= reply.status < 300:
            raise self._errors.failure(
                await reply.read(), status=reply.status, headers=reply.headers
            )

    def _hear(self, stream: EventStream, piece: bytes, answer: Answer) -> bool:
        """Take what a read brought, b"" at the end; whether the answer has ended in good order."""
        try:
            events = stream.feed(piece) if piece else stream.close()
        except EventTooLong as error:
            raise self._errors.nonsense(f"sent {error}") from None
        for event in events:
            if event.data.strip() == b"[DONE]":
                return True
            if event.type == "error":
                raise self._errors.failure(event.data)
            answer.hear(self._answered(event.data))
        if piece:
            return False
        # Some servers forget "[DONE]"; none forgets why it stopped.
        if not answer.finish_reason:
            raise self._errors.nonsense("ended its answer in the middle")
        return True

    def _whole(self, body: bytes) -> AnswerJson:
        answered = self._answered(body)
        if not answered.choices:
            raise self._errors.nonsense("sent an answer without any choices")
        return answered

    def _answered(self, data: bytes) -> AnswerJson:
        answered = self._decoded(decode_answer, data)
        if answered.error is not None:
            raise self._errors.failure(data)
        return answered

    def _decoded(self, read: Callable[[bytes], T], body: bytes) -> T:
        try:
            return read(body)
        except (ValueError, RecursionError) as error:
            text = body.lstrip()
            if text.startswith(b"<"):
                raise self._errors.page(body) from None
            # The decoder's words name the field, and quote nothing of what may be private.
            problem = f"sent what makes no sense: {error}" if text else "sent an empty answer"
            raise self._errors.nonsense(problem) from None

    async def _listing(self) -> list[ModelJson]:
        server = self._server
        headers = {name: self._upstream.with_key(v) for name, v in server.models_headers.items()}
        try:
            async with (
                asyncio.timeout(LISTING_TIMEOUT),
                self._upstream.request("GET", server.models_path, headers=headers) as reply,
            ):
                if reply.status in _NO_SUCH_METHOD:
                    raise Failure.unsupported(
                        "ListModels",
                        f"provider {self.name!r} has no list of models (HTTP status "
                        f"{reply.status}); its models answer all the same, if base_url is right",
                    )
                await self._check(reply)
                return self._decoded(decode_models, await reply.read()).data or []
        except TimeoutError:
            raise Failure(
                v1.ERROR_REASON_PROVIDER_TIMEOUT,
                f"provider {self.name!r} did not list its models within {LISTING_TIMEOUT:g} s",
                provider=self.name,
            ) from None

    def _model(self, listed: ModelJson) -> v1.Model:
        model = v1.Model(
            name=self.full_name(listed.id),
            provider=self.name,
            display_name=listed.display_name or "",
            # All that a list of names tells; what the model can do besides is not known.
            capabilities=[v1.CAPABILITY_GENERATE, v1.CAPABILITY_STREAM],
        )
        if not self._server.local:
            model.state = v1.MODEL_STATE_READY
            # Local servers mean something else by it: when the file was changed.
            with suppress(ValueError):
                if listed.created_at:
                    model.create_time.FromJsonString(listed.created_at)
                elif listed.created:
                    model.create_time.FromSeconds(int(listed.created))
        return model
