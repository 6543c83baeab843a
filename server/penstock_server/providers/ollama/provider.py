"""A provider for Ollama, by its own API.

This room only joins the others: ``request`` writes what is asked, ``answer`` reads what comes back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers import Call
from penstock_server.providers.answer import Answer, Asked
from penstock_server.providers.http_provider import HttpProvider, Written
from penstock_server.providers.ollama.answer import OllamaAnswer
from penstock_server.providers.ollama.json import (
    ListedJson,
    ShowJson,
    decode_chat,
    decode_embed,
    decode_list,
    decode_progress,
    decode_show,
)
from penstock_server.providers.ollama.request import RequestWriter
from penstock_server.providers.transport.credentials import Credentials
from penstock_server.providers.transport.errors import ErrorReader
from penstock_server.providers.transport.ndjson import Lines
from penstock_server.providers.transport.upstream import HttpUpstream, Patience

_HINTS = {
    v1.ERROR_REASON_MODEL_NOT_FOUND: "`penstock pull` and `ollama pull` fetch models",
    v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "check OLLAMA_API_KEY",
}

# What /api/show calls them → ours.
_CAPABILITIES = {
    "completion": (
        v1.CAPABILITY_GENERATE,
        v1.CAPABILITY_STREAM,
        v1.CAPABILITY_JSON_OBJECT,
        v1.CAPABILITY_JSON_SCHEMA,
        v1.CAPABILITY_LOGPROBS,
    ),
    "tools": (v1.CAPABILITY_TOOLS,),
    "vision": (v1.CAPABILITY_IMAGE_INPUT,),
    "thinking": (v1.CAPABILITY_THINKING,),
    "embedding": (v1.CAPABILITY_EMBED,),
}


class OllamaProvider(HttpProvider):
    """Answers for the models of one Ollama.

    ``provider_options`` are merged into the body: ``keep_alive``, and in ``options`` whatever
    Ollama has (``num_ctx``, ``num_gpu``, …).

    Example::

        provider = OllamaProvider("ollama", Fixed("ollama", ollama_url("")))
        async for event in provider.stream("qwen3:0.6b", request, call): ...
        await provider.close()
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials,
        *,
        patience: Patience | None = None,
        max_connections: int = 4096,
    ) -> None:
        upstream = HttpUpstream(
            name,
            credentials,
            patience=patience,
            max_connections=max_connections,
            what_to_do="is Ollama running? Start it with `ollama serve`",
        )
        super().__init__(name, upstream, ErrorReader(name, _HINTS, upstream.redact), local=True)
        self._writer = RequestWriter(name)

    def _write(self, model: str, request: v1.GenerateRequest, *, stream: bool) -> Written:
        return Written("/api/chat", self._writer.chat(model, request, stream=stream))

    def _answer(self, asked: Asked) -> Answer:
        return OllamaAnswer(asked)

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        """What has been pulled; what a model can do, only `get_model` asks."""
        listed = (await self._get("/api/tags", decode_list)).models or []
        loaded = await self._loaded()
        return [self._model(one, loaded) for one in listed]

    async def get_model(self, model: str, call: Call) -> v1.Model:
        """What Ollama says of it."""
        async with self._ask(_body("/api/show", model=model), model) as reply:
            shown = self._errors.decoded(decode_show, await reply.read())
        found = self._model(ListedJson(name=model), await self._loaded())
        _describe(found, shown)
        return found

    async def load_model(
        self, model: str, call: Call
    ) -> AsyncGenerator[v1.LoadModelResponse, None]:
        """A request without a prompt loads; Ollama does not tell how far it is."""
        yield v1.LoadModelResponse(progress=0.0, stage="loading")
        async with self._ask(_body("/api/generate", model=model, stream=False), model) as reply:
            self._errors.decoded(decode_chat, await reply.read())
        found = await self.get_model(model, call)
        yield v1.LoadModelResponse(progress=1.0, stage="ready", model=found)

    async def unload_model(self, model: str, call: Call) -> v1.Model:
        """A request without a prompt that keeps it alive no longer."""
        written = _body("/api/generate", model=model, stream=False, keep_alive=0)
        async with self._ask(written, model) as reply:
            self._errors.decoded(decode_chat, await reply.read())
        found = await self.get_model(model, call)
        found.state = v1.MODEL_STATE_UNLOADED
        return found

    async def pull_model(
        self, model: str, call: Call
    ) -> AsyncGenerator[v1.PullModelResponse, None]:
        """Fetch it from Ollama's registry. Who leaves stops it; Ollama goes on from there."""
        lines = Lines()
        done = False
        async with self._ask(_body("/api/pull", model=model, stream=True), model) as reply:
            while not done:
                piece = await reply.more()
                reply.begun()
                for line in lines.feed(piece) if piece else lines.close():
                    told = self._errors.decoded(decode_progress, line)
                    if told.error is not None:
                        raise self._errors.failure(line)
                    done = told.status == "success"
                    yield v1.PullModelResponse(
                        stage=told.status,
                        completed_bytes=told.completed or 0,
                        total_bytes=told.total or 0,
                    )
                if not piece and not done:
                    raise self._errors.nonsense("ended its progress in the middle")
            reply.whole = True
        found = await self.get_model(model, call)
        yield v1.PullModelResponse(stage="ready", model=found)

    async def embed(self, model: str, request: v1.EmbedRequest, call: Call) -> v1.EmbedResponse:
        """One vector for each input."""
        with self._about(model):
            written = Written("/api/embed", self._writer.embed(model, request))
        async with self._ask(written, model) as reply:
            answer = self._errors.decoded(decode_embed, await reply.read())
            if len(answer.embeddings) != len(request.inputs):
                count = len(answer.embeddings)
                raise self._errors.nonsense(
                    f"sent {count} vectors for {len(request.inputs)} inputs"
                )
        response = v1.EmbedResponse(
            model=self.full_name(model),
            embeddings=[v1.Embedding(values=vector) for vector in answer.embeddings],
        )
        if answer.prompt_eval_count is not None:
            response.usage.input_tokens = answer.prompt_eval_count
        return response

    async def _loaded(self) -> dict[str, ListedJson]:
        """What is in memory; nothing where this Ollama (or Ollama's cloud) does not say."""
        try:
            listed = (await self._get("/api/ps", decode_list)).models or []
        except Failure as failure:
            if failure.metadata.get("upstream_status") not in ("404", "405"):
                raise
            return {}
        return {one.name: one for one in listed}

    def _model(self, listed: ListedJson, loaded: dict[str, ListedJson]) -> v1.Model:
        tagged = listed.name if ":" in listed.name else f"{listed.name}:latest"
        running = loaded.get(tagged) or loaded.get(listed.name)
        return v1.Model(
            name=self.full_name(listed.name),
            provider=self.name,
            capabilities=[v1.CAPABILITY_GENERATE, v1.CAPABILITY_STREAM],
            state=v1.MODEL_STATE_READY if running else v1.MODEL_STATE_UNLOADED,
            context_length=(running.context_length or 0) if running else 0,
        )


def _describe(model: v1.Model, shown: ShowJson) -> None:
    if shown.capabilities is not None:
        del model.capabilities[:]
        for name in shown.capabilities:
            model.capabilities.extend(_CAPABILITIES.get(name, ()))
        model.capability_source = v1.CAPABILITY_SOURCE_PROVIDER
    info = shown.model_info or {}
    length = info.get(f"{info.get('general.architecture')}.context_length")
    if not model.context_length and isinstance(length, int):
        with suppress(ValueError):  # more than the field holds
            model.context_length = length


def _body(path: str, **fields: Any) -> Written:
    return Written(path, msgspec.json.encode(fields))
