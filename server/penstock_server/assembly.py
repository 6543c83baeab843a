"""What a configuration makes of a server: all of it goes in place at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock_server.identity import Door
from penstock_server.limits.rates import Ledger
from penstock_server.providers import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Who answers, under which names, and who may ask.

    Example::

        Assembly(providers=[local], aliases={"fast": "local/tiny"})
    """

    providers: Sequence[Provider]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names of the operator's choosing for full names."""
    routes: Sequence[Provider] = ()
    """Providers that each stand for what has their name."""
    door: Door | None = None
    """Knows callers; None: everybody may do everything."""
    ledger: Ledger | None = None
    """What counts for the limits."""
