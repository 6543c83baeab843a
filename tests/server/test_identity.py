"""Who gets in: tokens, JSON Web Tokens and certificates, right and wrong; and what they may do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import penstock
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from penstock import v1
from penstock_server.identity import new_token

from tests.server.knocking import (
    HASH,
    OLD,
    REFUSED,
    TOKEN,
    Metadata,
    bearer,
    door,
    each_way,
    outcome,
    unary,
)
from tests.support.issuer import Issuer
from tests.support.scripted import ScriptedProvider, serving

CASES: Mapping[str, tuple[Callable[[Issuer], Metadata], str]] = {
    "token: right": (lambda _: bearer(TOKEN), "OK"),
    "token: none": (lambda _: [], REFUSED + "this server wants to know who calls"),
    "token: wrong": (lambda _: bearer(TOKEN[:-1] + "x"), REFUSED + "the token is not known"),
    "token: its hash": (lambda _: bearer(HASH), REFUSED + "the token is not known"),
    "token: expired": (lambda _: bearer(OLD), REFUSED + "the token has expired"),
    "token: revoked": (lambda _: bearer(new_token()[0]), REFUSED + "the token is not known"),
    "token: two": (lambda _: [*bearer(TOKEN), *bearer(OLD)], REFUSED + "the metadata"),
    "token: another scheme": (lambda _: [("authorization", f"Basic {TOKEN}")], REFUSED),
    "JWT: right": (lambda i: bearer(i.token()), "OK"),
    "JWT: right, by another key": (lambda i: bearer(i.token("ec")), "OK"),
    "JWT: right, one audience of several": (lambda i: bearer(i.token(aud=["x", "other"])), "OK"),
    "JWT: signed by somebody else": (
        lambda i: bearer(i.token(key=rsa.generate_private_key(65537, 2048))),
        REFUSED + "the JSON Web Token is not good: its signature is wrong",
    ),
    "JWT: expired": (
        lambda i: bearer(i.token(exp=time.time() - 5)),
        REFUSED + "the JSON Web Token is not good: it has expired",
    ),
    "JWT: not good yet": (
        lambda i: bearer(i.token(nbf=time.time() + 50)),
        REFUSED + "the JSON Web Token is not good: it is not good yet",
    ),
    "JWT: never expires": (
        lambda i: bearer(i.token(exp=None)),
        REFUSED + "the JSON Web Token is not good: it lacks a claim",
    ),
    "JWT: for another audience": (
        lambda i: bearer(i.token(aud="somebody else")),
        REFUSED + "the JSON Web Token is not good: it is for another audience",
    ),
    "JWT: from another issuer": (
        lambda i: bearer(i.token(iss="https://evil.example")),
        REFUSED + "the JSON Web Token is not good: somebody else has issued it",
    ),
    "JWT: revoked by its id": (
        lambda i: bearer(i.token(jti="J-1")),
        REFUSED + "the JSON Web Token has been revoked",
    ),
    "JWT: revoked by its subject": (
        lambda i: bearer(i.token(sub="auth0|bad")),
        REFUSED + "the JSON Web Token has been revoked",
    ),
    "JWT: a key that there is not": (
        lambda i: bearer(i.token("rsa-2", key=i.keys["rsa"], alg="RS256")),
        REFUSED + "the JSON Web Token's issuer has no such key",
    ),
    "JWT: unsigned": (
        lambda i: bearer(jwt.encode({"sub": "a"}, "", algorithm="none", headers={"kid": "rsa"})),
        REFUSED + "the JSON Web Token is not good: it is signed by an algorithm",
    ),
    "JWT: signed with the public key as a secret": (
        lambda i: bearer(i.token(key="x" * 64, alg="HS256")),
        REFUSED + "the JSON Web Token is not good: it is signed by an algorithm",
    ),
    "JWT: nonsense": (lambda _: bearer("a.b.c"), REFUSED + "the token is no JSON Web Token"),
}


@each_way
@pytest.mark.parametrize("case", CASES)
async def test_who_gets_in(
    issuer: Issuer,
    case: str,
    ask: Any,
    report: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "penstock")
    provider = ScriptedProvider()
    make, expected = CASES[case]
    metadata = make(issuer)
    revoked = ["J-1", "auth0|bad"]
    async with serving(provider, door=door(issuer, revoked=revoked)) as (_, channel):
        for _ in range(2):  # what is remembered says the same
            said = await ask(channel, metadata)
            assert said.startswith(expected), said
        # Nobody else is let in, or kept out, by it.
        assert await ask(channel, bearer(TOKEN)) == "OK"
    assert len(provider.calls) == (3 if expected == "OK" else 1)
    logged = " ".join(str(record.__dict__) for record in caplog.records)
    for _, value in metadata:
        assert value.split()[-1] not in logged
        assert value.split()[-1] not in said
    if ask is unary:
        report(f"{case}: {said.partition(':')[0]}")


async def test_callers_are_who_they_are_known_to_be(issuer: Issuer) -> None:
    provider = ScriptedProvider()
    async with serving(provider, door=door(issuer)) as (_, channel):
        pretending = [("x-penstock-caller", "somebody else")]
        for metadata in (
            bearer(TOKEN),
            bearer(issuer.token(sub="report-job")),
            bearer(issuer.token(sub="Anna Ö")),
        ):
            assert await unary(channel, [*metadata, *pretending]) == "OK"
    names = [call.caller for call in provider.calls]
    assert names == ["reports", "reports", "subject:Anna%20%C3%96"]


async def test_keys_are_renewed_and_kept_while_their_issuer_is_down(issuer: Issuer) -> None:
    watch = door(issuer)
    jwts = watch._jwts
    assert jwts is not None
    now = 0.0
    jwts.keys._clock = lambda: now
    async with serving(ScriptedProvider(), door=watch) as (_, channel):
        old = bearer(issuer.token())
        asked = await asyncio.gather(*(unary(channel, old) for _ in range(20)))
        assert set(asked) == {"OK"}
        assert issuer.asked == 1, "many calls, one fetch"
        # A new key is fetched when a token names it, but not more often than now and then.
        issuer.keys["rsa-2"] = issuer.keys.pop("rsa")
        new = bearer(issuer.token("rsa-2", alg="RS256"))
        assert "has no such key" in await unary(channel, new)
        assert issuer.asked == 1
        now = 6.0
        assert await unary(channel, new) == "OK"
        assert issuer.asked == 2
        assert "has no such key" in await unary(channel, old), "remembered ones go with their key"
        issuer.broken = True
        now = 1_000.0
        assert await unary(channel, new) == "OK"
        assert issuer.asked == 3


async def test_keys_that_never_came(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    issuer.broken = True
    async with serving(ScriptedProvider(), door=door(issuer)) as (_, channel):
        said = await unary(channel, bearer(issuer.token()))
        assert said.startswith("UNAVAILABLE IDENTITY_UNAVAILABLE: the keys")
        assert await unary(channel, bearer(TOKEN)) == "OK", "API tokens need no issuer"
    assert "cannot be fetched" in caplog.text


async def test_of_strangers_nothing_is_read() -> None:
    """What has no place here is refused before its message is taken in."""
    async with serving(ScriptedProvider(), door=door()) as (_, channel):
        large = v1.GenerateRequest(model="test/echo", prompt="x" * (70 * 1024 * 1024))
        begun = time.monotonic()
        said = await outcome(v1.GenerationServiceStub(channel).Generate(large, timeout=20))
        assert said.startswith(REFUSED), said
        assert time.monotonic() - begun < 10


async def test_a_client_with_a_token(issuer: Issuer) -> None:
    async with serving(ScriptedProvider(), door=door(issuer)) as (server, _):
        target = server.addresses[0]
        async with penstock.aio.Client(target, token=TOKEN) as client:
            assert (await client.generate("Hi", model="test/echo")).message

        def sync() -> None:
            with penstock.Client(target, token=TOKEN) as client:
                assert client.generate("Hi", model="test/echo").message
            with (
                penstock.Client(target, token="wrong") as client,
                pytest.raises(penstock.AuthenticationError),
            ):
                client.generate("Hi", model="test/echo")

        await asyncio.to_thread(sync)
