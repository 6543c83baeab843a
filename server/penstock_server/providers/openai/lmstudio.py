"""LM Studio: Chat Completions for answers, its own REST API for what is loaded, load, unload, pull.

Format: lmstudio.ai/docs/developer/rest, version 1 (LM Studio 0.4.0 and newer). Older ones have no
such API: there the models are those of ``/v1/models``, and cannot be loaded from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers import Call
from penstock_server.providers.http_provider import Written
from penstock_server.providers.openai.chat_provider import ChatProvider
from penstock_server.providers.transport.credentials import Fixed
from penstock_server.providers.transport.upstream import HttpUpstream

LOOK_AGAIN = 0.5
"""Seconds between two looks at how far a download is: LM Studio tells it only when asked."""

_ROOT = "/api/v1/models"


class _InstanceConfigJson(msgspec.Struct):
    context_length: int | None = None


class _InstanceJson(msgspec.Struct):
    id: str
    config: _InstanceConfigJson | None = None


class _CapabilitiesJson(msgspec.Struct):
    vision: bool = False
    trained_for_tool_use: bool = False
    reasoning: Any = None


class _ModelJson(msgspec.Struct):
    key: str
    type: str = "llm"
    display_name: str | None = None
    loaded_instances: list[_InstanceJson] | None = None
    max_context_length: int | None = None
    capabilities: _CapabilitiesJson | None = None


class _ModelsJson(msgspec.Struct):
    models: list[_ModelJson]


class _DownloadJson(msgspec.Struct):
    status: str
    job_id: str | None = None
    downloaded_bytes: int | None = None
    total_size_bytes: int | None = None


_decode_models = msgspec.json.Decoder(_ModelsJson).decode
_decode_download = msgspec.json.Decoder(_DownloadJson).decode
_DONE = frozenset({"completed", "already_downloaded"})

# What any model that writes can do there: LM Studio holds them to a schema by a grammar.
_WRITES = (
    v1.CAPABILITY_GENERATE,
    v1.CAPABILITY_STREAM,
    v1.CAPABILITY_JSON_OBJECT,
    v1.CAPABILITY_JSON_SCHEMA,
)


class LMStudioProvider(ChatProvider):
    """Answers for the models of one LM Studio; the arguments are those of `ChatProvider`.

    The base URL ends with "/v1"; the REST API is beside it.
    """

    def __init__(self, name: str, credentials: Fixed, **settings: Any) -> None:
        super().__init__(name, credentials, **settings)
        root = Fixed(
            name,
            credentials.base_url.removesuffix("/v1"),
            credentials.headers,
            secrets=credentials.secrets,
        )
        patience = settings.get("patience")
        self._rest = HttpUpstream(
            name, root, patience=patience, what_to_do=self._server.unreachable
        )

    async def close(self) -> None:
        """Close all connections."""
        await super().close()
        await self._rest.close()

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        """What has been downloaded, and whether it is loaded."""
        listed = await self._own_list()
        if listed is None:
            return await super().list_models(call)
        return [self._described(one) for one in listed]

    async def get_model(self, model: str, call: Call) -> v1.Model:
        """One model of that list, by its key or by the name of a loaded instance."""
        listed = await self._own_list()
        if listed is None:
            return await super().get_model(model, call)
        return self._described(self._one(listed, model))

    async def load_model(
        self, model: str, call: Call
    ) -> AsyncGenerator[v1.LoadModelResponse, None]:
        """Load it, unless it is loaded; LM Studio does not tell how far it is."""
        found = self._one(await self._own_list_or_fail("LoadModel", model), model)
        if not found.loaded_instances:
            yield v1.LoadModelResponse(progress=0.0, stage="loading")
            await self._post("/load", model, {"model": found.key})
        ready = await self.get_model(model, call)
        yield v1.LoadModelResponse(progress=1.0, stage="ready", model=ready)

    async def unload_model(self, model: str, call: Call) -> v1.Model:
        """Unload every instance of it."""
        found = self._one(await self._own_list_or_fail("UnloadModel", model), model)
        for instance in found.loaded_instances or ():
            await self._post("/unload", model, {"instance_id": instance.id})
        return await self.get_model(model, call)

    async def pull_model(
        self, model: str, call: Call
    ) -> AsyncGenerator[v1.PullModelResponse, None]:
        """Download it. LM Studio has no way to stop that: who leaves only stops looking."""
        begun = await self._post("/download", model, {"model": model})
        told = self._errors.decoded(_decode_download, begun)
        while True:
            yield v1.PullModelResponse(
                stage=told.status,
                completed_bytes=told.downloaded_bytes or 0,
                total_bytes=told.total_size_bytes or 0,
            )
            if told.status in _DONE:
                break
            if told.status == "failed" or not told.job_id:
                raise Failure(
                    v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
                    f"provider {self.name!r} could not download {model!r}; its own log says why",
                    model=self.full_name(model),
                    provider=self.name,
                )
            await asyncio.sleep(LOOK_AGAIN)
            path = f"{_ROOT}/download/status/{told.job_id}"
            async with self._rest.request("GET", path, model=self.full_name(model)) as reply:
                await self._check(reply)
                job = told.job_id
                told = self._errors.decoded(_decode_download, await reply.read())
                told.job_id = told.job_id or job
        yield v1.PullModelResponse(stage="ready", model=await self._pulled(model, call))

    async def _pulled(self, model: str, call: Call) -> v1.Model:
        try:
            return await self.get_model(model, call)
        except Failure:  # it was pulled by a URL, and is listed by another name
            return v1.Model(name=self.full_name(model), provider=self.name)

    async def _own_list(self) -> list[_ModelJson] | None:
        """The REST API's list; None where this LM Studio has no such API."""
        try:
            async with self._rest.request("GET", _ROOT) as reply:
                if reply.status == 404:
                    return None
                await self._check(reply)
                body = await reply.read()
        except Failure as failure:
            if failure.metadata.get("upstream_status") == "404":
                return None
            raise
        if b'"models"' not in body:
            return None  # older ones answer unknown paths with 200 and an error
        return self._errors.decoded(_decode_models, body).models

    async def _own_list_or_fail(self, feature: str, model: str) -> list[_ModelJson]:
        listed = await self._own_list()
        if listed is None:
            raise Failure.unsupported(
                feature,
                f"{feature} needs LM Studio 0.4.0 or newer at provider {self.name!r}",
                model=self.full_name(model),
                provider=self.name,
            )
        return listed

    def _one(self, listed: Sequence[_ModelJson], model: str) -> _ModelJson:
        for one in listed:
            if model == one.key or any(model == i.id for i in one.loaded_instances or ()):
                return one
        raise self._no_such_model(model, "`penstock pull` and `lms get` fetch models")

    async def _post(self, path: str, model: str, fields: dict[str, str]) -> bytes:
        written = Written(_ROOT + path, msgspec.json.encode(fields))
        async with self._rest.request(
            "POST",
            written.path,
            written.body,
            headers=written.headers,
            model=self.full_name(model),
        ) as reply:
            await self._check(reply)
            return await reply.read()

    def _described(self, listed: _ModelJson) -> v1.Model:
        instances = listed.loaded_instances or []
        config = instances[0].config if instances else None
        model = v1.Model(
            name=self.full_name(listed.key),
            provider=self.name,
            display_name=listed.display_name or "",
            capability_source=v1.CAPABILITY_SOURCE_PROVIDER,
            context_length=(config.context_length if config else None)
            or listed.max_context_length
            or 0,
            state=v1.MODEL_STATE_READY if instances else v1.MODEL_STATE_UNLOADED,
        )
        if listed.type == "embedding":
            model.capabilities.append(v1.CAPABILITY_EMBED)
            return model
        model.capabilities.extend(_WRITES)
        can = listed.capabilities or _CapabilitiesJson()
        if can.trained_for_tool_use:
            model.capabilities.append(v1.CAPABILITY_TOOLS)
        if can.vision:
            model.capabilities.append(v1.CAPABILITY_IMAGE_INPUT)
        if can.reasoning:
            model.capabilities.append(v1.CAPABILITY_THINKING)
        return model
