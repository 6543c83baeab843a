"""The provider of models that run in this very process: a sidecar's only one.

It finds models, has them loaded, and tells an answer in the contract's events. What a prompt may
hold, how a model is loaded and how it computes is known in the rooms beside this one.
"""

from __future__ import annotations

import asyncio
import difflib
import uuid
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local import prompt
from penstock_server.local.engine import Loaded
from penstock_server.local.job import Answer, Finish
from penstock_server.local.model import EngineFactory, LocalModel
from penstock_server.local.reply import Reply
from penstock_server.providers import Call, Events, HealthListener, Provider

_CAPABILITIES = (v1.CAPABILITY_GENERATE, v1.CAPABILITY_STREAM)


class LocalProvider(Provider):
    """Answers with local models.

    ``models`` maps each model's name to what makes its engine. Those in ``preload`` (default:
    all) are loaded at the start, the others by the first call that needs them.

    Health: good once every preloaded model is loaded and warmed up, or has failed to, as long
    as there is any model left that can answer. A sidecar whose only model cannot be loaded
    does not serve; the log and GetModel say why.

    Example::

        provider = LocalProvider("local", {"tiny": lambda: SerialEngine(backend, "tiny")})
    """

    def __init__(
        self,
        name: str,
        models: Mapping[str, EngineFactory],
        preload: Collection[str] | None = None,
    ) -> None:
        super().__init__(name)
        self._models = {
            model: LocalModel(model, factory, self._update_health)
            for model, factory in models.items()
        }
        self._preload = frozenset(models if preload is None else preload)
        self._preloading: list[asyncio.Task[None]] = []
        self._on_health: HealthListener | None = None
        self._healthy: bool | None = None

    async def start(self, on_health: HealthListener) -> None:
        """Begin to load what is to be preloaded."""
        self._on_health = on_health
        self._preloading = [
            asyncio.create_task(_exhaust(model))
            for model in self._models.values()
            if model.name in self._preload
        ]
        self._update_health()

    async def close(self) -> None:
        """Stop all engines and free all memory."""
        await asyncio.gather(*(model.close() for model in self._models.values()))
        await asyncio.gather(*self._preloading)

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        """See `Provider.stream`."""
        local = self._find(model)
        with self._naming(model):
            prompt.check(request)  # before a model is loaded for nothing
            async with local.use() as ready:
                job = await ready.make_job(request, call.deadline)
                async with (
                    aclosing(ready.engine.generate(job)) as answer,
                    aclosing(self._tell(answer, model, request, call)) as events,
                ):
                    async for event in events:
                        yield event

    async def _tell(
        self, answer: Answer, model: str, request: v1.GenerateRequest, call: Call
    ) -> Events:
        """An answer in the contract's events."""
        reply = Reply(f"gen-{uuid.uuid4().hex}", self.full_name(model), call.arrived)
        yield reply.started()
        finish: Finish | None = None
        async for chunk in answer:
            finish = chunk.finish
            for event in reply.add(chunk):
                yield event
        assert finish is not None  # an answer ends with one, or raises
        for event in reply.complete(finish, answer.job, request.sampling.stop):
            yield event

    async def list_models(self, call: Call) -> Sequence[v1.Model]:
        """See `Provider.list_models`."""
        return [self._describe(model) for model in self._models.values()]

    async def get_model(self, model: str, call: Call) -> v1.Model:
        """See `Provider.get_model`."""
        return self._describe(self._find(model))

    async def load_model(
        self, model: str, call: Call
    ) -> AsyncGenerator[v1.LoadModelResponse, None]:
        """Load a model, also one that failed to load before. Leaving does not stop it."""
        local = self._find(model)
        with self._naming(model):
            async with aclosing(local.load()) as changes:
                async for _ in changes:
                    ready = local.state == v1.MODEL_STATE_READY
                    yield v1.LoadModelResponse(
                        progress=1.0 if ready else local.progress,
                        stage="ready" if ready else local.message,
                        model=self._describe(local),
                    )

    async def unload_model(self, model: str, call: Call) -> v1.Model:
        """See `Provider.unload_model`. The next call that needs the model loads it again."""
        local = self._find(model)
        await local.unload()
        return self._describe(local)

    def _find(self, model: str) -> LocalModel:
        local = self._models.get(model)
        if local is None:
            near = difflib.get_close_matches(model, self._models, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise Failure(
                v1.ERROR_REASON_MODEL_NOT_FOUND,
                f"provider {self.name!r} has no model {model!r}; {hint}"
                f"it has: {', '.join(sorted(self._models)) or 'none'}",
                model=self.full_name(model),
                provider=self.name,
            )
        return local

    def _describe(self, local: LocalModel) -> v1.Model:
        loaded = local.loaded
        return v1.Model(
            name=self.full_name(local.name),
            provider=self.name,
            capabilities=_capabilities(loaded),
            capability_source=v1.CAPABILITY_SOURCE_PROVIDER,
            context_length=loaded.context_length if loaded else 0,
            max_output_tokens=0,  # bounded by context_length only
            state=local.state,
            state_message=local.message,
            load_progress=local.progress,
            engine=local.stats(),
        )

    def _update_health(self) -> None:
        if self._on_health is None:
            return
        states = [self._models[model].state for model in self._preload]
        if any(state in _UNSETTLED for state in states) and self._healthy is None:
            return  # still starting: nothing is promised yet
        healthy = not self._models or any(
            model.state != v1.MODEL_STATE_FAILED for model in self._models.values()
        )
        if healthy != self._healthy:
            self._healthy = healthy
            self._on_health(healthy)

    @contextmanager
    def _naming(self, model: str) -> Iterator[None]:
        """Failures that pass here say which model it was."""
        try:
            yield
        except Failure as failure:
            failure.metadata.setdefault("model", self.full_name(model))
            failure.metadata.setdefault("provider", self.name)
            raise


def _capabilities(loaded: Loaded | None) -> Sequence[v1.Capability.ValueType]:
    """What a model can do, as far as that is known: most of it only once it is in memory."""
    if loaded is None:
        return _CAPABILITIES
    found = [*_CAPABILITIES, *loaded.abilities.capabilities]
    if loaded.scores:
        found.append(v1.CAPABILITY_LOGPROBS)
    if loaded.image_reader is not None:
        found.append(v1.CAPABILITY_IMAGE_INPUT)
    return sorted(found)


_UNSETTLED = frozenset({v1.MODEL_STATE_UNLOADED, v1.MODEL_STATE_LOADING})


async def _exhaust(model: LocalModel) -> None:
    try:
        async for _ in model.load():
            pass
    except Failure:
        pass  # the model knows, and has said so in the log
