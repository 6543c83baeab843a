"""Which provider a request is for: "local/tiny" → (the provider named "local", "tiny").

Four kinds of names, tried in this order: "provider/model", an alias from the configuration, a route
from there, and a model's bare name where a single provider has such a model.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from penstock import v1

from penstock_server.catalog import Catalog
from penstock_server.errors import Failure
from penstock_server.providers import Call, Provider


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

    ``aliases`` are names of the operator's choosing for full names, ``routes`` providers that each
    stand for what has their name (see ``routes``). Raises ValueError where an alias names no
    provider.

    Example::

        router = Router([local], {"fast": "local/tiny"})
        provider, model = await router.route("fast", call)
    """

    def __init__(
        self,
        providers: Iterable[Provider],
        aliases: Mapping[str, str] | None = None,
        routes: Iterable[Provider] = (),
    ) -> None:
        self.replace(providers, aliases, routes)

    def replace(
        self,
        providers: Iterable[Provider],
        aliases: Mapping[str, str] | None = None,
        routes: Iterable[Provider] = (),
    ) -> None:
        """Know these from now on, instead of those before."""
        self.routes: Mapping[str, Provider] = {route.name: route for route in routes}
        self.providers: Mapping[str, Provider] = {p.name: p for p in providers}
        self.catalog = Catalog(self.providers.values())
        self._aliases: dict[str, Route] = {}
        for alias, name in (aliases or {}).items():
            route = self._full(name)
            if route is None:
                raise ValueError(
                    f"aliases.{alias}: {name!r} is not 'provider/model' with a configured provider"
                )
            self._aliases[alias] = route

    async def route(self, name: str, call: Call) -> Route:
        """The route for a model's name; PROVIDER_NOT_FOUND where there is none.

        Model names may hold slashes themselves ("local/org/model"): the first one counts where it
        ends a provider's name. For a bare name the providers are asked what they have, unless
        there is but one provider.
        """
        route = self._full(name) or self._aliases.get(name)
        if route is not None:
            return route
        if name in self.routes:
            return Route(self.routes[name], name)
        head, slash, _ = name.partition("/")
        if len(self.providers) == 1 and not slash:
            return Route(next(iter(self.providers.values())), name)
        owners = await self.catalog.owners(name, call)
        if len(owners) == 1:
            return Route(owners[0], name)
        if owners:
            raise self._ambiguous(name, owners)
        raise self._unknown(name, head if slash else "")

    def provider(self, name: str) -> Provider:
        """The provider of that name, or PROVIDER_NOT_FOUND."""
        if name not in self.providers:
            raise self._unknown(name, name)
        return self.providers[name]

    def _full(self, name: str) -> Route | None:
        head, _, rest = name.partition("/")
        return Route(self.providers[head], rest) if rest and head in self.providers else None

    def _ambiguous(self, name: str, owners: Iterable[Provider]) -> Failure:
        names = sorted(provider.full_name(name) for provider in owners)
        return Failure(
            v1.ERROR_REASON_PROVIDER_NOT_FOUND,
            f"several providers have a model {name!r}; write one of {', '.join(names)}",
            model=name,
        )

    def _unknown(self, name: str, provider: str) -> Failure:
        known = sorted(self.providers)
        near = difflib.get_close_matches(
            provider or name, [*known, *self._aliases, *self.routes], n=1
        )
        hint = f"did you mean {near[0]!r}? " if near else ""
        problem = (
            f"no provider is named {provider!r}"
            if provider
            else f"model {name!r} names no provider (write 'provider/model'), "
            "and no provider lists it"
        )
        return Failure(
            v1.ERROR_REASON_PROVIDER_NOT_FOUND,
            f"{problem}; {hint}configured: {', '.join(known) or 'none'}",
            model=name,
            provider=provider,
        )
