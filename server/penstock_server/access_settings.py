"""What the configuration says of callers: who they are, and what they may do.

What it means is ``identity``'s and ``policy``'s business.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    model_validator,
)

from penstock_server.limit_settings import CallLimits
from penstock_server.sections import Section, Strings, comma_separated

DEFAULT_POLICY = "default"
"""Whose policy nobody names has this one. Where it is not configured, it allows every model."""


class PolicySettings(Section):
    """What a caller may do."""

    models: Strings = Field(default_factory=lambda: ["*"])
    """Names of models, aliases and routes, with * for anything: "local/*", "fast"."""
    manage: bool = False
    """Whether it may load, unload and pull models."""
    limits: CallLimits = CallLimits()
    """How much each caller that has this policy may ask for."""


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_utc)]
"""A time; UTC, where nothing else is said."""


class TokenSettings(Section):
    """An API token, as ``penstock-server --new-token`` prints it."""

    hash: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    """The token's SHA-256; the token itself is its caller's alone."""
    expires: Moment | None = None
    """When it ends to be good."""


def _tokens(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list):
        return value
    return [{"hash": each} if isinstance(each, str) else each for each in value]


class CallerSettings(Section):
    """A caller, and what it proves itself by: any one of these."""

    tokens: Annotated[list[TokenSettings], BeforeValidator(_tokens)] = Field(default_factory=list)
    """Several, while one replaces another."""
    certificates: Strings = Field(default_factory=list)
    """Names in certificates: the first alternative name, or else the common name."""
    subjects: Strings = Field(default_factory=list)
    """Subjects ("sub") of JWTs."""
    policy: str = DEFAULT_POLICY


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]

DEFAULT_ALGORITHMS: Sequence[Algorithm] = ("RS256", "ES256")


class JwtSettings(Section):
    """Whose JSON Web Tokens are believed (RFC 7519, and RFC 8725 for what is asked of them)."""

    issuer: str
    """Who issues them ("iss")."""
    audience: Strings = Field(min_length=1)
    """Whom they have to be for ("aud"): one of these."""
    jwks_url: str = ""
    """Where the issuer's keys are (RFC 7517)."""
    jwks_file: str = ""
    """Or the file that has them."""
    algorithms: Annotated[list[Algorithm], BeforeValidator(comma_separated)] = Field(
        default_factory=lambda: list(DEFAULT_ALGORITHMS)
    )
    leeway: NonNegativeFloat = 30.0
    """How far the issuer's clock and ours may differ, in seconds."""
    refresh: PositiveFloat = 600.0
    """How old the keys may become before they are fetched again, in seconds."""
    policy_claim: str = ""
    """The claim that names the caller's policy. Default: none does."""
    policy: str = DEFAULT_POLICY
    """The policy of those for whom neither a claim nor ``callers`` says another."""

    @model_validator(mode="after")
    def _keys_from_somewhere(self) -> Self:
        if bool(self.jwks_url) == bool(self.jwks_file):
            raise ValueError("set either jwks_url or jwks_file")
        if self.jwks_url.startswith("http://"):
            host = self.jwks_url.removeprefix("http://").partition("/")[0]
            if not is_loopback(host):
                raise ValueError("jwks_url: keys that come without TLS prove nothing; use https")
        return self


Openness = Literal["open", "identified", "off"]


class AuthSettings(Section):
    """How callers are known."""

    anonymous: str = ""
    """The policy of callers that show nothing; they share its limits. Default: they are refused
    where ``callers``, ``auth.jwt`` or ``tls.client_ca`` say how to be known, and else may do
    everything."""
    jwt: JwtSettings | None = None
    revoked: Strings = Field(default_factory=list)
    """What is not good any more, though it has not expired: ids ("jti") and subjects of JWTs,
    names in certificates, and certificates' SHA-256 fingerprints in hexadecimal."""
    health: Openness = "open"
    """Who may ask for health: balancers have no token."""
    reflection: Openness = "identified"
    """Who may read the contract by reflection."""
    channelz: Openness = "identified"
    """Who may see the server's connections."""


def policies_named(
    auth: AuthSettings, callers: dict[str, CallerSettings]
) -> Iterator[tuple[str, str]]:
    """Every place where the configuration names a policy: its key, and the name."""
    if auth.anonymous:
        yield "auth.anonymous", auth.anonymous
    if auth.jwt is not None:
        yield "auth.jwt.policy", auth.jwt.policy
    for name, caller in callers.items():
        yield f"callers.{name}.policy", caller.policy


def is_loopback(address: str) -> bool:
    """Whether "host:port" can be reached from this machine alone; so can every Unix socket."""
    if address.startswith("unix:"):
        return True
    host = address.removeprefix("ipv4:").removeprefix("ipv6:")
    if host.count(":") == 1 or host.startswith("["):
        host = host.rpartition(":")[0] if not host.endswith("]") else host
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


ACCESS_SECTIONS = (AuthSettings, JwtSettings, CallerSettings, TokenSettings, PolicySettings)
