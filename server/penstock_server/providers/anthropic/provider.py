"""A provider for Anthropic's Messages API, at Anthropic, on Bedrock and on Vertex.

This room only joins the others: ``request`` writes what is asked, ``answer`` reads what comes back,
``models`` knows what the API does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import quote

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers import Call
from penstock_server.providers.answer import Answer, Asked
from penstock_server.providers.anthropic.answer import AnthropicAnswer
from penstock_server.providers.anthropic.bedrock import BedrockAnswer
from penstock_server.providers.anthropic.json import ModelJson, decode_model, decode_models
from penstock_server.providers.anthropic.models import traits
from penstock_server.providers.anthropic.request import RequestWriter, answer_tool
from penstock_server.providers.http_provider import JSON, HttpProvider, Written
from penstock_server.providers.transport.credentials import Credentials
from penstock_server.providers.transport.errors import ErrorReader
from penstock_server.providers.transport.upstream import HttpUpstream, Patience

_HINTS = {
    "": {v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "check ANTHROPIC_API_KEY"},
    "bedrock": {v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "check the AWS credentials and region"},
    "vertex": {v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "check the Google credentials and project"},
}

# What a list of capabilities calls them → ours.
_SUPPORTS = {
    "image_input": v1.CAPABILITY_IMAGE_INPUT,
    "pdf_input": v1.CAPABILITY_DOCUMENT_INPUT,
    "thinking": v1.CAPABILITY_THINKING,
}

# Whatever the model: a tool that it has to call gives JSON where it cannot be held to it natively.
_ALWAYS = (
    v1.CAPABILITY_GENERATE,
    v1.CAPABILITY_STREAM,
    v1.CAPABILITY_TOOLS,
    v1.CAPABILITY_JSON_OBJECT,
    v1.CAPABILITY_JSON_SCHEMA,
)


class AnthropicProvider(HttpProvider):
    """Answers for Anthropic's models.

    ``cloud`` is "bedrock", "vertex" or "" for Anthropic itself. ``provider_options`` are merged
    into the body: ``cache_control``, ``container``, ``mcp_servers``, ``service_tier`` and whatever
    the API has; ``betas``, a list, becomes the header of that name.

    Example::

        provider = AnthropicProvider("anthropic", anthropic_credentials("anthropic", api_key="…"))
        async for event in provider.stream("claude-sonnet-5", request, call): ...
        await provider.close()
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials,
        *,
        cloud: str = "",
        patience: Patience | None = None,
        max_connections: int = 4096,
    ) -> None:
        upstream = HttpUpstream(
            name,
            credentials,
            patience=patience,
            max_connections=max_connections,
            what_to_do=f"is {credentials.base_url} reachable from here?",
        )
        super().__init__(name, upstream, ErrorReader(name, _HINTS[cloud], upstream.redact))
        self._cloud = cloud
        self._writer = RequestWriter(name)

    def _write(self, model: str, request: v1.GenerateRequest, *, stream: bool) -> Written:
        written = self._writer.write(model, request, stream=stream)
        headers = dict(JSON)
        if written.betas:
            headers["anthropic-beta"] = ",".join(written.betas)
        return Written("/v1/messages", written.body, headers)

    def _answer(self, asked: Asked) -> Answer:
        kind = BedrockAnswer if self._cloud == "bedrock" else AnthropicAnswer
        own_name = asked.model.removeprefix(f"{self.name}/")
        return kind(asked, answer_tool(own_name, asked.request.response_format))

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        """Anthropic's own list. Bedrock and Vertex have none of their own for it."""
        if self._cloud:
            raise Failure.unsupported(
                "ListModels",
                f"provider {self.name!r} has no list of models; they answer all the same, by the "
                "names that the cloud's console shows",
                provider=self.name,
            )
        found: list[v1.Model] = []
        path = "/v1/models?limit=1000"
        while True:
            page = await self._get(path, decode_models)
            found += map(self._model, page.data)
            if not page.has_more or not page.last_id:
                return found
            path = f"/v1/models?limit=1000&after_id={quote(page.last_id)}"

    async def get_model(self, model: str, call: Call) -> v1.Model:
        """One model, as the API describes it; on a cloud, as our table does."""
        if self._cloud:
            return self._model(ModelJson(id=model))
        try:
            described = await self._get(f"/v1/models/{quote(model, safe='')}", decode_model, model)
        except Failure as failure:
            if failure.metadata.get("upstream_status") != "404":
                raise
            raise self._no_such_model(model) from failure
        return self._model(described)

    async def _alive(self) -> None:
        """Not looked at: what a hosted service says is told by its answers."""

    def _model(self, listed: ModelJson) -> v1.Model:
        known = traits(listed.id)
        model = v1.Model(
            name=self.full_name(listed.id),
            provider=self.name,
            display_name=listed.display_name or "",
            state=v1.MODEL_STATE_READY,
            context_length=listed.max_input_tokens or known.context_length,
            max_output_tokens=listed.max_tokens or known.max_output_tokens,
        )
        if listed.capabilities is None:
            model.capabilities.extend(known.capabilities)
            model.capability_source = v1.CAPABILITY_SOURCE_TABLE
        else:
            model.capabilities.extend(_ALWAYS)
            for name, capability in _SUPPORTS.items():
                if getattr(listed.capabilities, name).supported:
                    model.capabilities.append(capability)
            model.capability_source = v1.CAPABILITY_SOURCE_PROVIDER
        with suppress(ValueError):
            if listed.created_at:
                model.create_time.FromJsonString(listed.created_at)
        return model
