"""What a caller may do. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.limits import Limiter


class Policy:
    """Which models, and whether they may be managed.

    Example::

        Policy("batch", ["local/*"]).check("reports", "local/tiny")
    """

    def __init__(self, name: str, models: Sequence[str] = ("*",), manage: bool = False) -> None:
        self.name = name
        self.models = models
        self.manage = manage
        # None: everything, which is not worth a search.
        self._allowed = (
            None
            if "*" in models
            else re.compile("|".join(fnmatch.translate(pattern) for pattern in models))
        )

    def allows(self, *names: str) -> bool:
        """Whether a model may be used that goes by these names: as asked for, and in full."""
        return self._allowed is None or any(self._allowed.match(name) for name in names)

    def sees(self, provider: str) -> bool:
        """Whether some of a provider's models may be allowed."""
        return any(fnmatch.fnmatchcase(provider, p.partition("/")[0]) for p in self.models)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls."""

    name: str
    """Empty where it is not known."""
    policy: Policy
    limiter: Limiter | None = None

    def check_model(self, *names: str) -> None:
        """Whether it may use a model that goes by these names, or CALLER_FORBIDDEN."""
        if not self.policy.allows(*names):
            raise self._forbidden(
                f"may not use {names[0]!r}: its policy {self.policy.name!r} allows "
                f"{', '.join(self.policy.models) or 'no model'}",
                model=names[0],
            )

    def check_manage(self, what: str) -> None:
        """Whether it may load, unload and pull models, or CALLER_FORBIDDEN."""
        if not self.policy.manage:
            raise self._forbidden(
                f"may not call {what}: its policy {self.policy.name!r} does not say manage = true"
            )

    def _forbidden(self, why: str, **metadata: str) -> Failure:
        return Failure(
            v1.ERROR_REASON_CALLER_FORBIDDEN,
            f"{self.name or 'a caller without a name'} {why}",
            extra=metadata,
            policy=self.policy.name,
        )


ANYBODY = Caller("", Policy("", manage=True))
"""Whoever calls a server that asks for no identity."""

BY_CERTIFICATE = Caller("", Policy("", models=()))
"""Who has shown nothing but a certificate, which is yet to be looked at."""

current_caller: ContextVar[Caller] = ContextVar("penstock_caller", default=ANYBODY)
"""Whose call the running task answers."""
