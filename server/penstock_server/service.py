"""The services: validate → route → may this caller? → let the provider answer, within limits.

No vendor, no process and no configuration is known here; what is the same for all calls (log
line, status, shutdown) is the gate's.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from itertools import islice
from typing import Any

import grpc
from penstock import v1

from penstock_server import limits, retry, telemetry, validation
from penstock_server.errors import MAX_VIOLATIONS, Failure, Violation
from penstock_server.interceptor import current_call
from penstock_server.policy import current_caller
from penstock_server.providers import Call, Provider
from penstock_server.routing import Route, Router

Context = grpc.aio.ServicerContext[Any, Any]


class GenerationService(v1.GenerationServiceServicer):
    """Answers Generate and StreamGenerate."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def Generate(self, request: v1.GenerateRequest, context: Context) -> v1.GenerateResponse:
        """Answer whole."""
        _check(validation.generate_request(request))
        call = current_call.get()
        provider, model = await _route(self._router, request.model, call)
        response = await _within_limits(
            provider, call, request, lambda: provider.generate(model, request, call)
        )
        _note_answer(response)
        return response

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Context
    ) -> AsyncGenerator[v1.StreamGenerateResponse, None]:
        """Answer as the model writes."""
        if not request.HasField("request"):
            raise Failure.invalid([Violation("request", "is required")])
        inner = request.request
        _check(validation.generate_request(inner, "request."))
        call = current_call.get()
        provider, model = await _route(self._router, inner.model, call)
        ask = limits.stream(
            provider.limiter, call, inner, lambda: provider.stream(model, inner, call)
        )
        patiently = limits.stream(
            current_caller.get().limiter,
            call,
            inner,
            lambda: retry.stream(provider.retry, ask, call.remaining),
        )
        begun = False
        async with aclosing(patiently()) as events:
            async for event in events:
                if not begun and not event.HasField("started"):
                    telemetry.current.get().first_event = time.monotonic()
                    begun = True
                yield event
                if event.HasField("completed"):
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
        _check(validation.provider_name(request.provider))
        providers: Iterable[Provider] = (
            [self._router.provider(request.provider)]
            if request.provider
            else [*self._router.providers.values(), *self._router.routes.values()]
        )
        found = await self._router.catalog.list_models(providers, current_call.get())
        policy = current_caller.get().policy
        models = [one for one in found.models if policy.allows(one.name)]
        failures = [one for one in found.failures if policy.sees(one.provider)]
        return v1.ListModelsResponse(models=models, failures=failures)

    async def GetModel(self, request: v1.GetModelRequest, context: Context) -> v1.GetModelResponse:
        """Describe one model."""
        provider, model = await self._find(request.model)
        call = current_call.get()
        found = await retry.unary(
            provider.retry, lambda: provider.get_model(model, call), call.remaining
        )
        return v1.GetModelResponse(model=found)

    async def LoadModel(
        self, request: v1.LoadModelRequest, context: Context
    ) -> AsyncIterator[v1.LoadModelResponse]:
        """Bring a model into memory, reporting progress."""
        provider, model = await self._find(request.model, "LoadModel")
        async with aclosing(provider.load_model(model, current_call.get())) as steps:
            async for step in steps:
                yield step

    async def UnloadModel(
        self, request: v1.UnloadModelRequest, context: Context
    ) -> v1.UnloadModelResponse:
        """Free a model's memory."""
        provider, model = await self._find(request.model, "UnloadModel")
        return v1.UnloadModelResponse(model=await provider.unload_model(model, current_call.get()))

    async def PullModel(
        self, request: v1.PullModelRequest, context: Context
    ) -> AsyncIterator[v1.PullModelResponse]:
        """Have a provider fetch a model, reporting progress."""
        provider, model = await self._find(request.model, "PullModel")
        async with aclosing(provider.pull_model(model, current_call.get())) as steps:
            async for step in steps:
                yield step

    async def _find(self, name: str, to_manage: str = "") -> Route:
        _check(validation.model_name(name))
        if to_manage:
            current_caller.get().check_manage(to_manage)
        return await _route(self._router, name, current_call.get())


class EmbeddingService(v1.EmbeddingServiceServicer):
    """Answers Embed."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def Embed(self, request: v1.EmbedRequest, context: Context) -> v1.EmbedResponse:
        """One vector for each input."""
        _check(validation.embed_request(request))
        call = current_call.get()
        provider, model = await _route(self._router, request.model, call)
        response = await _within_limits(
            provider, call, request, lambda: provider.embed(model, request, call)
        )
        telemetry.answered(response.model, response.usage)
        return response


def _check(violations: Iterable[Violation]) -> None:
    found = list(islice(violations, MAX_VIOLATIONS))  # no more than that are told
    if found:
        raise Failure.invalid(found)


async def _route(router: Router, name: str, call: Call) -> Route:
    telemetry.note(model=name)
    route = await router.route(name, call)
    telemetry.current.get().provider = route.provider.name
    if route.name != name:
        telemetry.note(routed=route.name)
    current_caller.get().check_model(name, route.name)
    return route


async def _within_limits(
    provider: Provider,
    call: Call,
    request: limits.Request,
    ask: Callable[[], Awaitable[limits.Answer]],
) -> limits.Answer:
    """Ask, as patiently as the provider's retry policy says.

    The caller's limits are for the whole of it, the provider's for each attempt.
    """
    once = limits.whole(provider.limiter, call, request, ask)
    return await limits.whole(
        current_caller.get().limiter,
        call,
        request,
        lambda: retry.unary(provider.retry, once, call.remaining),
    )()


def _note_answer(response: v1.GenerateResponse) -> None:
    usage = response.usage
    telemetry.note(
        finish=v1.FinishReason.Name(response.finish_reason).removeprefix("FINISH_REASON_"),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
    )
    telemetry.answered(response.model, usage)
    telemetry.note_private(answer=response.message)
