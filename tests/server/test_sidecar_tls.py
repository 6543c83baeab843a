"""TLS towards sidecars: who is let in, what callers are told, and certificates that change."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from penstock import v1
from penstock.errors import from_rpc_error
from penstock_server.app import Server
from penstock_server.config import ConfigError, GatewayConfig, ServerConfig
from penstock_server.gateway import Gateway
from penstock_server.provider_settings import SidecarTls
from penstock_server.providers.sidecar import SIDECAR_PROVIDER, SidecarProvider
from penstock_server.tls import ChannelCertificates

from tests.support.certificates import Authority
from tests.support.processes import gateway, sidecar
from tests.support.scripted import ScriptedProvider, serving

Tls = Mapping[str, str]


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs")


@asynccontextmanager
async def far(tls: Tls, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """A sidecar elsewhere; its address."""
    config = ServerConfig.model_validate(
        {"listen": [address], "shutdown": {"notice": 0, "drain": 0}, "tls": dict(tls)}
    )
    server = Server(config, [ScriptedProvider(SIDECAR_PROVIDER)], linked=True)
    await server.start()
    try:
        yield server.addresses[0]
    finally:
        await server.stop()


@asynccontextmanager
async def near(
    address: str, tls: Tls | None, ready_timeout: float = 0.4
) -> AsyncIterator[Callable[[], Any]]:
    """A gateway; asks by it, and tells what a caller is told."""
    certificates = (
        None if tls is None else ChannelCertificates(SidecarTls.model_validate(dict(tls)))
    )
    provider = SidecarProvider("far", [address], None, ready_timeout, tls=certificates)

    async with serving(provider) as (_, channel):

        async def ask() -> str:
            request = v1.GenerateRequest(model="far/echo", prompt="Hi")
            try:
                await v1.GenerationServiceStub(channel).Generate(request, timeout=10)
            except grpc.aio.AioRpcError as error:
                told = from_rpc_error(error)
                assert told.reason == "SIDECAR_UNAVAILABLE"
                return told.message.partition(f"{address}: ")[2]
            return "OK"

        yield ask


ASKS_FOR_ONE = "it ends the connection, perhaps because it asks for a certificate (tls.cert)"
REFUSES_OURS = (
    "it ends the connection, perhaps because it does not accept the certificate in tls.cert"
)

# What is at the sidecar, what at the gateway, and what a caller is told.
CASES: Mapping[str, Any] = {
    "right": lambda us, them: (us.sign("server"), {"ca": us.ca}, "OK"),
    "another authority": lambda us, them: (
        us.sign("server"),
        {"ca": them.ca},
        "its certificate is by nobody that tls.ca vouches for",
    ),
    "gRPC's own authorities": lambda us, them: (
        us.sign("server"),
        {},
        "its certificate is by nobody that tls.ca vouches for",
    ),
    "expired": lambda us, them: (
        us.sign("server", days=-1),
        {"ca": us.ca},
        "its certificate has expired",
    ),
    "by its name": lambda us, them: (
        us.sign("server"),
        {"ca": us.ca, "server_name": "server"},
        "OK",
    ),
    "another name": lambda us, them: (
        us.sign("server"),
        {"ca": us.ca, "server_name": "another"},
        "its certificate is for another name than its address (or tls.server_name)",
    ),
    "mutual: right": lambda us, them: (
        {**us.sign("server"), "client_ca": us.ca},
        {"ca": us.ca, **us.sign("gateway")},
        "OK",
    ),
    "mutual: no certificate": lambda us, them: (
        {**us.sign("server"), "client_ca": us.ca},
        {"ca": us.ca},
        ASKS_FOR_ONE,
    ),
    "mutual: another authority's": lambda us, them: (
        {**us.sign("server"), "client_ca": us.ca},
        {"ca": us.ca, **them.sign("gateway")},
        REFUSES_OURS,
    ),
    "mutual: expired": lambda us, them: (
        {**us.sign("server"), "client_ca": us.ca},
        {"ca": us.ca, **us.sign("gateway", days=-1)},
        REFUSES_OURS,
    ),
    "in the clear, to TLS": lambda us, them: (
        us.sign("server"),
        None,
        "it ends the connection, perhaps because it speaks TLS (tls)",
    ),
    "by TLS, to one in the clear": lambda us, them: ({}, {"ca": us.ca}, "it speaks no TLS"),
}


@pytest.mark.parametrize("case", CASES)
async def test_who_is_let_in_and_what_callers_are_told(
    case: str, ours: Authority, theirs: Authority, report: Callable[[str], None]
) -> None:
    at_the_sidecar, at_the_gateway, told = CASES[case](ours, theirs)
    async with far(at_the_sidecar) as address, near(address, at_the_gateway) as ask:
        assert await ask() == told
    report(f"{case}: {told}")


async def test_where_nobody_is_there_tls_is_not_blamed(ours: Authority) -> None:
    async with far(ours.sign("server")) as address:
        pass
    async with near(address, {"ca": ours.ca}) as ask:
        assert await ask() == ""


async def test_certificates_change_without_a_restart(
    ours: Authority, theirs: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sidecar changes its authority, and then the gateway."""
    caplog.set_level(logging.INFO, "penstock")
    files = {"ca": str(tmp_path / "ca.pem"), **ours.sign("gateway")}
    shutil.copy(ours.ca, files["ca"])
    async with AsyncExitStack() as first:
        address = await first.enter_async_context(
            far({**ours.sign("server"), "client_ca": ours.ca})
        )
        async with near(address, files) as ask:
            await eventually(ask)
            await first.aclose()
            async with far({**theirs.sign("server"), "client_ca": theirs.ca}, address):
                assert await ask() == "its certificate is by nobody that tls.ca vouches for"
                renewed = theirs.sign("gateway")
                shutil.copy(renewed["cert"], files["cert"])
                assert await ask() != "OK"  # the half of it is of no use, and does no harm
                for what, file in (("key", renewed["key"]), ("ca", theirs.ca)):
                    shutil.copy(file, files[what])
                await eventually(ask)
    assert "certificates renewed" in caplog.messages
    assert "the certificates cannot be renewed" in caplog.messages


async def test_a_connection_that_stands_is_kept(
    ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    files = {"ca": str(tmp_path / "ca.pem")}
    shutil.copy(ours.ca, files["ca"])
    async with far(ours.sign("server")) as address, near(address, files) as ask:
        await eventually(ask)
        shutil.copy(theirs.ca, files["ca"])
        assert await ask() == "OK"


async def eventually(ask: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while await ask() != "OK":
            pass


def test_a_gateway_and_a_sidecar_in_processes_of_their_own(ours: Authority) -> None:
    server = {**ours.sign("server"), "client_ca": ours.ca}
    flags = [arg for key, value in server.items() for arg in ("--set", f"tls.{key}={value}")]
    with sidecar(*flags) as process:
        tls = {"ca": ours.ca, **ours.sign("gateway")}
        settings = ["kind=sidecar", f"addresses={process.address}"]
        settings += [f"tls.{key}={value}" for key, value in tls.items()]
        told = [arg for value in settings for arg in ("--set", f"providers.far.{value}")]
        with gateway(*told) as front, grpc.insecure_channel(front.ready().address) as channel:
            request = v1.GenerateRequest(model="far/tiny", prompt="Hi")
            answer = v1.GenerationServiceStub(channel).Generate(request, timeout=60)
    assert answer.message.parts[0].text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tls": {"cert": "a"}}, "cert and key go together"),
        ({"models": {"a": "b"}, "addresses": []}, "tls is for addresses"),
        ({"tls": {"ca": "nowhere.pem"}}, r"providers\.far\.tls: nowhere\.pem: No such file"),
        ({"tls": {"ca": __file__}}, r"providers\.far\.tls: .* cannot be used"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(change: Mapping[str, Any], said: str) -> None:
    settings = {"kind": "sidecar", "addresses": ["far:1"], "tls": {}, **change}
    with pytest.raises((ConfigError, ValueError), match=said):
        Gateway({}).assemble(GatewayConfig.model_validate({"providers": {"far": settings}}))
