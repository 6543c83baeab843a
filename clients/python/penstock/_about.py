"""What is to be known of a model, and done with it, beside asking it: written once.

Capabilities, health, vectors, loading and unloading, for both of `LLM`'s flavours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from penstock import v1
from penstock._core import CAPABILITIES, MEDIA_TYPES, UNSET, Core
from penstock._flavours import Flavour
from penstock.errors import PenstockError


async def capabilities(core: Core, flavour: Flavour) -> list[str]:
    model = await about(core, flavour)
    return [word for known, word in CAPABILITIES.items() if known in model.capabilities]


async def media_types(core: Core, flavour: Flavour) -> list[str]:
    model = await about(core, flavour)
    more = [types for known, types in MEDIA_TYPES.items() if known in model.capabilities]
    return ["text/*", *more]


async def about(core: Core, flavour: Flavour) -> v1.Model:
    name = await core.name(flavour)
    found: v1.Model = await flavour.call("get_model", name, timeout=core.seconds(UNSET))
    return found


async def health(core: Core, flavour: Flavour, timeout: float) -> dict[str, Any]:
    began = time.perf_counter()
    models: list[str] | None = None
    problem: str | None = None
    try:
        found: v1.ListModelsResponse = await flavour.call(
            "list_models", core.provider, timeout=core.seconds(timeout)
        )
        models = sorted(m.name.removeprefix(f"{core.provider}/") for m in found.models)
        problem = next((failure.message for failure in found.failures), None)
    except PenstockError as error:
        problem = str(error)
    return {
        "status": "unhealthy" if problem else "healthy",
        "provider": core.provider,
        "models": models,
        "model_count": len(models or ()),
        "error": problem,
        "latency_ms": (time.perf_counter() - began) * 1000,
    }


async def embed(
    core: Core, flavour: Flavour, input_text: str | Sequence[str], **options: Any
) -> dict[str, Any]:
    name = await core.name(flavour)
    options["timeout"] = core.seconds(options.get("timeout", UNSET))
    found: v1.EmbedResponse = await flavour.call("embed", input_text, model=name, **options)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": list(each.values), "index": index}
            for index, each in enumerate(found.embeddings)
        ],
        "model": found.model or name,
        "usage": {
            "prompt_tokens": found.usage.input_tokens,
            "total_tokens": found.usage.input_tokens,
        },
    }


async def load(
    core: Core,
    flavour: Flavour,
    model_name: str | None,
    on_progress: Callable[[float, str], object] | None,
    timeout: Any,
) -> None:
    def told(step: v1.LoadModelResponse) -> None:
        if on_progress is not None:
            on_progress(step.progress, step.stage)

    name = await _full(core, flavour, model_name)
    await flavour.follow("load_model", name, each=told, timeout=core.seconds(timeout))


async def unload(core: Core, flavour: Flavour, model_name: str | None) -> None:
    name = await _full(core, flavour, model_name)
    await flavour.call("unload_model", name, timeout=core.seconds(UNSET))


async def _full(core: Core, flavour: Flavour, model_name: str | None) -> str:
    return f"{core.provider}/{model_name}" if model_name else await core.name(flavour)
