"""Which models there are: every provider asked at once, each with a time limit of its own.

Who fails or hangs is reported beside who answers. Where one model goes is ``routing``'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from penstock import v1

from penstock_server import telemetry
from penstock_server.errors import Failure
from penstock_server.providers import Call, Provider

LISTING_TIMEOUT = 5.0
"""Seconds that a provider has to list its models; one that hangs must not hide the others'."""

KEPT = 60.0
"""Seconds for which it is remembered who has which model, for names without a provider."""

# What Ollama adds to a name that has no tag.
_DEFAULT_TAG = ":latest"


class Catalog:
    """The models of all providers.

    Concurrency: one event loop. Listings for callers are always fresh; only `owners` remembers.
    """

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._providers = list(providers)
        self._kept: dict[str, tuple[float, frozenset[str]]] = {}

    async def list_models(self, providers: Iterable[Provider], call: Call) -> v1.ListModelsResponse:
        """The models of these providers, and the failures of those that could not say."""
        response = v1.ListModelsResponse()
        for outcome in await asyncio.gather(*(self._list(p, call) for p in providers)):
            if isinstance(outcome, v1.ProviderFailure):
                response.failures.append(outcome)
            else:
                response.models.extend(outcome)
        response.models.sort(key=lambda model: model.name)
        response.failures.sort(key=lambda failure: failure.provider)
        return response

    async def owners(self, model: str, call: Call) -> list[Provider]:
        """The providers that list a model by this name, their own."""
        now = time.monotonic()
        stale = [p for p in self._providers if self._kept.get(p.name, (0.0,))[0] <= now]
        await asyncio.gather(*(self._list(p, call) for p in stale))
        names = {model, model + _DEFAULT_TAG}
        return [p for p in self._providers if not names.isdisjoint(self._names(p))]

    def _names(self, provider: Provider) -> frozenset[str]:
        return self._kept.get(provider.name, (0.0, frozenset[str]()))[1]

    async def _list(self, provider: Provider, call: Call) -> list[v1.Model] | v1.ProviderFailure:
        try:
            async with asyncio.timeout(LISTING_TIMEOUT):
                models = list(await provider.list_models(call))
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
        else:
            names = frozenset(model.name.partition("/")[2] for model in models)
            self._kept[provider.name] = (time.monotonic() + KEPT, names)
            return models
        self._kept.pop(provider.name, None)
        report = v1.ProviderFailure(
            provider=provider.name, reason=failure.reason, message=failure.message
        )
        if failure.retry_delay is not None:
            report.retry_delay.FromMilliseconds(int(failure.retry_delay * 1000))
        return report
