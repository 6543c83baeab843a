"""Which provider a request is for: "local/tiny" → (the provider named "local", "tiny")."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.providers import Provider


class Route(NamedTuple):
    """Where a request goes: the provider, and the provider's own name for the model."""

    provider: Provider
    model: str

    @property
    def name(self) -> str:
        """The full name, "provider/model"."""
        return self.provider.full_name(self.model)


class Router:
    """Knows the providers by name.

    Example::

        provider, model = Router([local]).route("local/tiny")
    """

    def __init__(self, providers: Iterable[Provider]) -> None:
        self.providers: Mapping[str, Provider] = {p.name: p for p in providers}

    def route(self, name: str) -> Route:
        """The route for a model's name; PROVIDER_NOT_FOUND where there is none.

        Model names may hold slashes themselves ("local/org/model"): the first one counts. With
        a single provider its name may be left out, unless the model's own name has a slash.
        """
        head, slash, rest = name.partition("/")
        if slash and rest and head in self.providers:
            return Route(self.providers[head], rest)
        if len(self.providers) == 1 and not slash:
            return Route(next(iter(self.providers.values())), name)
        raise self._unknown(name, head if slash else "")

    def provider(self, name: str) -> Provider:
        """The provider of that name, or PROVIDER_NOT_FOUND."""
        if name not in self.providers:
            raise self._unknown(name, name)
        return self.providers[name]

    def _unknown(self, name: str, provider: str) -> Failure:
        known = sorted(self.providers)
        near = difflib.get_close_matches(provider or name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        problem = (
            f"no provider is named {provider!r}"
            if provider
            else f"model {name!r} names no provider (write 'provider/model')"
        )
        return Failure(
            v1.ERROR_REASON_PROVIDER_NOT_FOUND,
            f"{problem}; {hint}configured: {', '.join(known) or 'none'}",
            model=name,
            provider=provider,
        )
