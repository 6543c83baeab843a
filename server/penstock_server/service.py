"""The services: validate → route → let the provider answer.

No vendor, no process and no configuration is known here; what is the same for all calls (log
line, status, shutdown) is the gate's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import grpc
from penstock import v1

from penstock_server import telemetry, validation
from penstock_server.errors import Failure, Violation
from penstock_server.interceptor import current_call
from penstock_server.providers import Call, Provider
from penstock_server.routing import Route, Router

Context = grpc.aio.ServicerContext[Any, Any]

LISTING_TIMEOUT = 5.0
"""Seconds that a provider has to list its models; one that hangs must not hide the others'."""


class GenerationService(v1.GenerationServiceServicer):
    """Answers Generate and StreamGenerate."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def Generate(self, request: v1.GenerateRequest, context: Context) -> v1.GenerateResponse:
        """Answer whole."""
        _check(validation.generate_request(request))
        provider, model = _route(self._router, request.model)
        response = await provider.generate(model, request, current_call.get())
        _note_answer(response)
        return response

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Context
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        """Answer as the model writes."""
        if not request.HasField("request"):
            raise Failure.invalid([Violation("request", "is required")])
        inner = request.request
        _check(validation.generate_request(inner, "request."))
        provider, model = _route(self._router, inner.model)
        async with aclosing(provider.stream(model, inner, current_call.get())) as events:
            async for event in events:
                yield event
                if event.WhichOneof("event") == "completed":
                    _note_answer(event.completed)
                    return
        raise Failure(
            v1.ERROR_REASON_PROVIDER_PROTOCOL,
            f"provider {provider.name!r} ended its answer without completing it; what came "
            "before is incomplete",
        )


class ModelService(v1.ModelServiceServicer):
    """Answers which models there are, and loads and unloads local ones."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def ListModels(
        self, request: v1.ListModelsRequest, context: Context
    ) -> v1.ListModelsResponse:
        """Ask all providers at once; who fails is reported beside who answers."""
        providers: Iterable[Provider] = (
            [self._router.provider(request.provider)]
            if request.provider
            else self._router.providers.values()
        )
        call = current_call.get()
        response = v1.ListModelsResponse()
        for outcome in await asyncio.gather(*(_list(p, call) for p in providers)):
            if isinstance(outcome, v1.ProviderFailure):
                response.failures.append(outcome)
            else:
                response.models.extend(outcome)
        response.models.sort(key=lambda model: model.name)
        response.failures.sort(key=lambda failure: failure.provider)
        return response

    async def GetModel(self, request: v1.GetModelRequest, context: Context) -> v1.GetModelResponse:
        """Describe one model."""
        provider, model = self._find(request.model)
        return v1.GetModelResponse(model=await provider.get_model(model, current_call.get()))

    async def LoadModel(
        self, request: v1.LoadModelRequest, context: Context
    ) -> AsyncIterator[v1.LoadModelResponse]:
        """Bring a model into memory, reporting progress."""
        provider, model = self._find(request.model)
        async with aclosing(provider.load_model(model, current_call.get())) as steps:
            async for step in steps:
                yield step

    async def UnloadModel(
        self, request: v1.UnloadModelRequest, context: Context
    ) -> v1.UnloadModelResponse:
        """Free a model's memory."""
        provider, model = self._find(request.model)
        return v1.UnloadModelResponse(model=await provider.unload_model(model, current_call.get()))

    def _find(self, name: str) -> Route:
        _check(validation.model_name(name))
        return _route(self._router, name)


class EmbeddingService(v1.EmbeddingServiceServicer):
    """Answers Embed."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def Embed(self, request: v1.EmbedRequest, context: Context) -> v1.EmbedResponse:
        """One vector for each input."""
        _check(validation.embed_request(request))
        provider, model = _route(self._router, request.model)
        return await provider.embed(model, request, current_call.get())


def _check(violations: Iterable[Violation]) -> None:
    found = list(violations)
    if found:
        raise Failure.invalid(found)


def _route(router: Router, name: str) -> Route:
    telemetry.note(model=name)
    return router.route(name)


def _note_answer(response: v1.GenerateResponse) -> None:
    usage = response.usage
    telemetry.note(
        finish=v1.FinishReason.Name(response.finish_reason).removeprefix("FINISH_REASON_"),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
    )
    telemetry.note_private(answer=response.message)


async def _list(provider: Provider, call: Call) -> list[v1.Model] | v1.ProviderFailure:
    try:
        async with asyncio.timeout(LISTING_TIMEOUT):
            return list(await provider.list_models(call))
    except Failure as error:
        failure = error
    except TimeoutError:
        failure = Failure(
            v1.ERROR_REASON_PROVIDER_TIMEOUT,
            f"provider {provider.name!r} did not list its models within {LISTING_TIMEOUT:g} s",
        )
    except Exception:
        # One provider's bug must not hide the other providers' models.
        telemetry.logger.exception("provider %r failed at listing its models", provider.name)
        failure = Failure(
            v1.ERROR_REASON_INTERNAL_ERROR,
            f"Penstock failed at listing the models of {provider.name!r}; see the server's log",
        )
    report = v1.ProviderFailure(
        provider=provider.name, reason=failure.reason, message=failure.message
    )
    if failure.retry_delay is not None:
        report.retry_delay.FromMilliseconds(int(failure.retry_delay * 1000))
    return report
