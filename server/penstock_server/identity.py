"""Who calls: by an API token, a JSON Web Token or a certificate; and what that one may do.

What is shown and is not good is refused, even where nothing need be shown. No token, and nothing
of one, is in any message or log.
"""

from __future__ import annotations

import hashlib
import secrets
import ssl
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import jwt
from penstock import v1

from penstock_server.access_settings import (
    DEFAULT_POLICY,
    AuthSettings,
    CallerSettings,
    JwtSettings,
    Openness,
    PolicySettings,
    TokenSettings,
)
from penstock_server.errors import Failure
from penstock_server.jwks import KeySet
from penstock_server.limits import Limits
from penstock_server.policy import ANYBODY, Caller, Policy

TOKEN_PREFIX = "penstock_"  # so that scanners for secrets find what was leaked
AUTHORIZATION = "authorization"

_FOREIGN: Mapping[str, str] = {
    "/grpc.health.": "health",
    "/grpc.reflection.": "reflection",
    "/grpc.channelz.": "channelz",
}
"""Services that are not ours → the key of `AuthSettings` that says to whom they are open."""

_REMEMBERED = 1_000
"""So many JWTs are not looked at again until they expire."""

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

_REFUSED: Mapping[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not good yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "somebody else has issued it",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.InvalidAlgorithmError: "it is signed by an algorithm that is not allowed",
    jwt.MissingRequiredClaimError: "it lacks a claim: exp, iss, aud and sub are required",
}
"""Why a JWT is refused; the first that fits. Everything else: it is malformed."""


def new_token() -> tuple[str, str]:
    """A new API token, and the hash by which the configuration knows it.

    32 random bytes: nobody guesses them, so that a fast hash is as good as a slow one.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    return token, hash_of(token)


def hash_of(token: str) -> str:
    """The hash by which the configuration knows a token."""
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


class Door:
    """Knows callers by what they show.

    ``certificates``: who comes by TLS has shown a certificate already. Everything belongs to one
    event loop.

    Example::

        caller = await door.who(method, metadata)  # raises CALLER_UNAUTHENTICATED
    """

    def __init__(
        self,
        auth: AuthSettings,
        callers: Mapping[str, CallerSettings],
        policies: Mapping[str, PolicySettings],
        limits: Limits,
        certificates: bool = False,
        keys: KeySet | None = None,
    ) -> None:
        self._auth = auth
        self._limits = limits
        self._certificates = certificates
        self._settings = {DEFAULT_POLICY: PolicySettings(), **policies}
        self._policies = {
            name: Policy(name, one.models, one.manage) for name, one in self._settings.items()
        }
        self._tokens: dict[str, tuple[str, TokenSettings, str]] = {}
        self._by_certificate: dict[str, tuple[str, str]] = {}
        self._by_subject: dict[str, tuple[str, str]] = {}
        for name, one in callers.items():
            self._tokens |= {token.hash: (name, token, one.policy) for token in one.tokens}
            self._by_certificate |= dict.fromkeys(one.certificates, (name, one.policy))
            self._by_subject |= dict.fromkeys(one.subjects, (name, one.policy))
        self._revoked = {each.lower().replace(":", "") for each in auth.revoked}
        self._jwts = _Jwts(auth.jwt, keys) if auth.jwt is not None else None
        self.asks = bool(self._tokens or self._jwts or certificates)
        """Whether callers have to be known."""

    async def who(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Caller | None:
        """Who calls; None: who shows nothing but, maybe, a certificate (see `by_certificate`).

        Raises CALLER_UNAUTHENTICATED, UNSUPPORTED_FEATURE for a service that is turned off, and
        IDENTITY_UNAVAILABLE.
        """
        openness = self._openness(method)
        if openness == "off":
            raise Failure.unsupported("service", f"{method}: this server does not offer it")
        if openness == "open":
            return ANYBODY
        shown = [value for key, value in metadata if key == AUTHORIZATION]
        if shown:
            return await self._by_token(shown)
        if self._certificates:
            return None
        if self._auth.anonymous:
            return self._caller("", self._auth.anonymous, "anonymous")
        if not self.asks:
            return ANYBODY
        raise _unauthenticated(
            'this server wants to know who calls: send the metadata "authorization: Bearer TOKEN"'
        )

    def by_certificate(self, auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
        """Who has shown this certificate; by a Unix socket there is none."""
        pem = next(iter(auth_context.get("x509_pem_cert", ())), b"").decode()
        if not pem:
            if self._auth.anonymous:
                return self._caller("", self._auth.anonymous, "anonymous")
            if self._tokens or self._jwts:
                raise _unauthenticated("this server wants to know who calls: send a token")
            return ANYBODY  # who reaches the socket is who runs the server
        name = _name_in(auth_context)
        print_of = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        if print_of in self._revoked or name.lower().replace(":", "") in self._revoked:
            raise _unauthenticated("the certificate has been revoked")
        known, policy = self._by_certificate.get(
            name, (f"certificate:{_printable(name)}", DEFAULT_POLICY)
        )
        return self._caller(known, policy)

    def _openness(self, method: str) -> Openness:
        for prefix, key in _FOREIGN.items():
            if method.startswith(prefix):
                openness: Openness = getattr(self._auth, key)
                if openness == "identified" and not self.asks:
                    return "open"
                return openness
        return "identified"

    async def _by_token(self, shown: Sequence[str | bytes]) -> Caller:
        scheme, _, token = str(shown[0]).strip().partition(" ")
        token = token.strip()
        if len(shown) > 1 or scheme.lower() != "bearer" or not token:
            raise _unauthenticated('the metadata "authorization" has to be one "Bearer TOKEN"')
        if self._jwts is not None and token.count(".") == 2:
            claims = await self._jwts.claims(token)
            return self._by_claims(claims)
        found = self._tokens.get(hash_of(token))
        if found is None:
            raise _unauthenticated("the token is not known here; it may have been revoked")
        name, settings, policy = found
        if settings.expires is not None and datetime.now(UTC) >= settings.expires:
            raise _unauthenticated(f"the token has expired ({settings.expires:%Y-%m-%d %H:%M} UTC)")
        return self._caller(name, policy)

    def _by_claims(self, claims: Mapping[str, Any]) -> Caller:
        subject = str(claims["sub"])
        if {subject.lower().replace(":", ""), str(claims.get("jti", "")).lower()} & self._revoked:
            raise _unauthenticated("the JSON Web Token has been revoked")
        settings = self._auth.jwt
        assert settings is not None
        name, policy = self._by_subject.get(
            subject, (f"subject:{_printable(subject)}", settings.policy)
        )
        claimed = claims.get(settings.policy_claim) if settings.policy_claim else None
        if claimed is not None:
            policy = str(claimed)
            if policy not in self._policies:
                raise _unauthenticated("the JSON Web Token names a policy that is not known here")
        return self._caller(name, policy)

    def _caller(self, name: str, policy: str, scope: str = "") -> Caller:
        limits = self._settings[policy].limits
        limiter = self._limits.of(f"caller/{scope or name}", limits) if limits.any else None
        return Caller(name, self._policies[policy], limiter)


class _Jwts:
    """Checks JSON Web Tokens, and remembers those that were good."""

    def __init__(self, settings: JwtSettings, keys: KeySet | None) -> None:
        self._settings = settings
        self.keys = keys or KeySet(settings)
        self._good: OrderedDict[bytes, Mapping[str, Any]] = OrderedDict()
        self._version = 0

    async def claims(self, token: str) -> Mapping[str, Any]:
        """What a token says, if it is good; raises CALLER_UNAUTHENTICATED."""
        digest = hashlib.sha256(token.encode()).digest()
        try:
            key = await self.keys.find(str(jwt.get_unverified_header(token).get("kid", "")))
        except jwt.PyJWTError:
            raise _unauthenticated("the token is no JSON Web Token: it is malformed") from None
        if self._version != self.keys.version:
            self._good.clear()
            self._version = self.keys.version
        known = self._good.get(digest)
        if known is not None and datetime.now(UTC).timestamp() < known["exp"]:
            return known
        if key is None:
            raise _unauthenticated("the JSON Web Token's issuer has no such key (any more)")
        settings = self._settings
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=settings.algorithms,
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            why = next((w for kind, w in _REFUSED.items() if isinstance(error, kind)), "")
            raise _unauthenticated(
                f"the JSON Web Token is not good: {why or 'it is malformed'}"
            ) from None
        self._good[digest] = claims
        if len(self._good) > _REMEMBERED:
            self._good.popitem(last=False)
        return claims


def _name_in(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """The name in a certificate: its first alternative name, else its common name."""
    for key in ("x509_subject_alternative_name", "x509_common_name"):
        for name in auth_context.get(key, ()):
            return name.decode(errors="replace")
    return ""


def _printable(name: str) -> str:
    """A name as metadata may carry it."""
    return quote(name, safe=_PRINTABLE.replace("%", ""))[:100]


def _unauthenticated(message: str) -> Failure:
    return Failure(v1.ERROR_REASON_CALLER_UNAUTHENTICATED, message)
