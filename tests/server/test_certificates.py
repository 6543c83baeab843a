"""Callers' certificates: who gets in with which, who that is then, and what it may do."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
from penstock_server.access_settings import AuthSettings, CallerSettings, PolicySettings
from penstock_server.config import ServerConfig
from penstock_server.identity import Door
from penstock_server.limits import Limits

from tests.server.knocking import HASH, TOKEN, bearer, each_way, unary
from tests.support.certificates import Authority
from tests.support.scripted import ScriptedProvider, serving


def fingerprint(file: str) -> str:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(file).read_text())).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, 64, 2)).upper()


def credentials(authority: Authority, shown: Mapping[str, str] | None) -> grpc.ChannelCredentials:
    key, cert = (Path(shown[name]).read_bytes() if shown else None for name in ("key", "cert"))
    return grpc.ssl_channel_credentials(Path(authority.ca).read_bytes(), key, cert)


@each_way
async def test_who_gets_in_with_which_certificate(
    tmp_path: Path, ask: Any, report: Callable[[str], None]
) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    shown: Mapping[str, Mapping[str, str] | None] = {
        "right": ours.sign("reports"),
        "right, of nobody in particular": ours.sign("somebody"),
        "right, but the policy does not allow it": ours.sign("narrow"),
        "none": None,
        "another authority's": theirs.sign("reports"),
        "expired": ours.sign("late", days=-1),
        "revoked by its name": ours.sign("fired"),
        "revoked by its fingerprint": ours.sign("leaked"),
    }
    leaked = shown["revoked by its fingerprint"]
    assert leaked is not None
    door = Door(
        AuthSettings(revoked=["fired", fingerprint(leaked["cert"])]),
        {
            "reports": CallerSettings.model_validate({"certificates": "reports", "tokens": HASH}),
            "narrow": CallerSettings.model_validate({"certificates": "narrow", "policy": "none"}),
        },
        {"none": PolicySettings(models=["nothing"])},
        Limits(),
        certificates=True,
    )
    tls = {**ours.sign("server"), "client_ca": ours.ca}
    config = ServerConfig.model_validate(
        {"listen": ["127.0.0.1:0"], "tls": tls, "shutdown": {"notice": 0}}
    )
    provider = ScriptedProvider()
    found: dict[str, str] = {}
    async with serving(provider, config=config, door=door) as (server, _):
        for name, one in shown.items():
            shows = credentials(ours, one)
            async with grpc.aio.secure_channel(server.addresses[0], shows) as channel:
                found[name] = (await ask(channel, [])).partition(":")[0].strip()
                if name == "right, of nobody in particular":  # a token says more
                    assert await ask(channel, bearer(TOKEN)) == "OK"
                    assert "UNAUTHENTICATED" in await ask(channel, bearer("wrong"))
    for name, said in found.items() if ask is unary else ():
        report(f"certificate {name}: {said}")
    assert found == {
        "right": "OK",
        "right, of nobody in particular": "OK",
        "right, but the policy does not allow it": "PERMISSION_DENIED CALLER_FORBIDDEN",
        "none": "UNAVAILABLE",  # the handshake fails: there is no call to be answered
        "another authority's": "UNAVAILABLE",
        "expired": "UNAVAILABLE",
        "revoked by its name": "UNAUTHENTICATED CALLER_UNAUTHENTICATED",
        "revoked by its fingerprint": "UNAUTHENTICATED CALLER_UNAUTHENTICATED",
    }
    assert [call.caller for call in provider.calls] == [
        "reports",
        "certificate:somebody",
        "reports",
    ]
