"""A provider for anything that speaks OpenAI's Chat Completions API over HTTP.

This room only joins the others: ``chat_request`` writes what is asked, ``chat_answer`` reads what
comes back, ``servers`` says how servers differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers import Call
from penstock_server.providers.answer import Answer, Asked
from penstock_server.providers.http_provider import (
    LISTING_TIMEOUT,
    HttpProvider,
    Written,
)
from penstock_server.providers.openai.capabilities import describe
from penstock_server.providers.openai.chat_answer import ChatAnswer
from penstock_server.providers.openai.chat_json import (
    ModelJson,
    decode_embeddings,
    decode_models,
)
from penstock_server.providers.openai.chat_request import RequestWriter, request_field
from penstock_server.providers.openai.servers import KNOWN, OTHER
from penstock_server.providers.transport.credentials import Credentials, Fixed, checked_key
from penstock_server.providers.transport.errors import ErrorReader
from penstock_server.providers.transport.upstream import HttpUpstream, Patience

# Servers without a list of models answer one of these.
_NO_SUCH_METHOD = frozenset({404, 405, 501})


class ChatProvider(HttpProvider):
    """Answers for the models behind one base URL.

    ``kind`` is the server's row in ``servers.KNOWN``; any other word means a server that nothing is
    known of, to which everything is passed on.

    ``GenerateRequest.provider_options`` are merged into the body: they are OpenAI's own parameters,
    or the server's. "model", "messages", "stream" and "n" cannot be set that way.

    Example::

        provider = ChatProvider("gpu", bearer("gpu", "http://gpu:8000/v1", "sk-…"))
        async for event in provider.stream("qwen3", request, call): ...
        await provider.close()
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials,
        *,
        kind: str = "openai-compatible",
        patience: Patience | None = None,
        max_connections: int = 4096,
    ) -> None:
        self._server = KNOWN.get(kind, OTHER)
        upstream = HttpUpstream(
            name,
            credentials,
            patience=patience,
            max_connections=max_connections,
            what_to_do=self._server.unreachable,
        )
        errors = ErrorReader(name, self._server.hints, upstream.redact, request_field)
        super().__init__(name, upstream, errors, local=kind in KNOWN and self._server.local)
        self._kind = kind
        self._writer = RequestWriter(name, self._server, kind)

    def _write(self, model: str, request: v1.GenerateRequest, *, stream: bool) -> Written:
        return Written("/chat/completions", self._writer.chat(model, request, stream=stream))

    def _answer(self, asked: Asked) -> Answer:
        return ChatAnswer(asked, self._kind)

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        """The server's own list. UNSUPPORTED_FEATURE where it has none."""
        return [self._model(listed) for listed in await self._listing()]

    async def get_model(self, model: str, call: Call) -> v1.Model:
        """One model of the server's list."""
        for listed in await self._listing():
            if listed.id == model:
                return self._model(listed)
        hint = self._server.hints.get(v1.ERROR_REASON_MODEL_NOT_FOUND, "")
        raise self._no_such_model(model, hint)

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        """One vector for each input."""
        if not self.embeds:
            raise self.unsupported("Embed", model)
        with self._about(model):
            written = Written("/embeddings", self._writer.embed(model, request))
        async with self._ask(written, model) as reply:
            answer = self._errors.decoded(decode_embeddings, await reply.read())
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

    async def _listing(self) -> list[ModelJson]:
        try:
            async with (
                asyncio.timeout(LISTING_TIMEOUT),
                self._upstream.request("GET", "/models") as reply,
            ):
                if reply.status in _NO_SUCH_METHOD:
                    raise Failure.unsupported(
                        "ListModels",
                        f"provider {self.name!r} has no list of models (HTTP status "
                        f"{reply.status}); its models answer all the same, if base_url is right",
                    )
                await self._check(reply)
                return self._errors.decoded(decode_models, await reply.read()).data or []
        except TimeoutError:
            raise self._silent() from None

    def _model(self, listed: ModelJson) -> v1.Model:
        model = v1.Model(
            name=self.full_name(listed.id),
            provider=self.name,
            display_name=listed.display_name or listed.name or "",
        )
        describe(model, listed, self._kind)
        if not self._server.local:
            model.state = v1.MODEL_STATE_READY
            # Local servers mean something else by it: when the file was changed.
            with suppress(ValueError):
                if listed.created:
                    model.create_time.FromSeconds(int(listed.created))
        return model


def bearer(name: str, base_url: str, api_key: str = "") -> Fixed:
    """Credentials for a server that takes a bearer token, or nothing.

    Raises ValueError for a base URL or a key that cannot be right.
    """
    key = checked_key(name, api_key)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return Fixed(name, base_url, headers, secrets=(key,))
