"""TLS: who gets in, who does not, who callers are then, and certificates that change meanwhile."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import TLSOptions
from penstock_server.access_settings import AuthSettings
from penstock_server.app import Server
from penstock_server.config import ConfigError, ServerConfig
from penstock_server.identity import Door
from penstock_server.limits import Limits

from tests.support.scripted import WORDS, ScriptedProvider

CERTIFICATES = Path(__file__).parents[1] / "client" / "certs"
CLIENT = TLSOptions(
    ca=CERTIFICATES / "ca.pem",
    certificate=CERTIFICATES / "client.pem",
    key=CERTIFICATES / "client.key",
)
NAMELESS = TLSOptions(ca=CERTIFICATES / "ca.pem")


@pytest.fixture
def files(tmp_path: Path) -> Mapping[str, str]:
    """A server's certificate, its key and the CA of both sides, to be changed."""
    for name in ("server.pem", "server.key", "client.pem", "client.key", "ca.pem"):
        shutil.copy(CERTIFICATES / name, tmp_path / name)
    return {"cert": str(tmp_path / "server.pem"), "key": str(tmp_path / "server.key")}


def config(tls: Mapping[str, str], *more: str) -> ServerConfig:
    return ServerConfig.model_validate(
        {
            "listen": ["127.0.0.1:0", *more],
            "shutdown": {"notice": 0, "drain": 1},
            "tls": dict(tls),
        }
    )


@asynccontextmanager
async def listening(
    tls: Mapping[str, str], *more: str
) -> AsyncIterator[tuple[ScriptedProvider, Server]]:
    provider = ScriptedProvider()
    door = Door(AuthSettings(), {}, {}, Limits(), certificates="client_ca" in tls)
    server = Server(config(tls, *more), [provider], door=door)
    await server.start()
    try:
        yield provider, server
    finally:
        await server.stop()


async def asked(server: Server, flavour: str, tls: TLSOptions | bool, name: str = "") -> str:
    """What a new connection gets; raises what a client raises."""
    target = server.addresses[0]
    options: dict[str, Any] = {"tls": tls, "timeout": 5}
    metadata = [("x-penstock-caller", name)] if name else []
    if flavour == "aio":
        async with penstock.aio.Client(target, metadata=metadata, **options) as client:
            return (await client.generate("Hi", model="test/echo")).message.parts[0].text

    def sync() -> str:
        with penstock.Client(target, metadata=metadata, **options) as client:
            return client.generate("Hi", model="test/echo").message.parts[0].text

    return await asyncio.to_thread(sync)


flavours = pytest.mark.parametrize("flavour", ["sync", "aio"])


@flavours
async def test_a_server_that_proves_itself(files: Mapping[str, str], flavour: str) -> None:
    async with listening(files) as (provider, server):
        assert await asked(server, flavour, NAMELESS, name="me") == "".join(WORDS)
        assert provider.calls[0].caller == "me"
        for stranger in (True, False):  # who trusts another CA; who speaks no TLS
            with pytest.raises(penstock.ServiceUnavailableError):
                await asked(server, flavour, stranger)


@flavours
async def test_callers_that_prove_themselves(files: Mapping[str, str], flavour: str) -> None:
    tls = {**files, "client_ca": str(CERTIFICATES / "ca.pem")}
    async with listening(tls) as (provider, server):
        assert await asked(server, flavour, CLIENT, name="somebody else") == "".join(WORDS)
        assert provider.calls[0].caller == "certificate:Penstock%20test%20client"
        with pytest.raises(penstock.ServiceUnavailableError):
            await asked(server, flavour, NAMELESS)
        assert len(provider.calls) == 1


def put(files: Mapping[str, str], name: str) -> None:
    """Renew the certificate as tools do: by a new file in the old one's place."""
    for ending, file in (("pem", files["cert"]), ("key", files["key"])):
        new = Path(file).with_suffix(".new")
        shutil.copy(CERTIFICATES / f"{name}.{ending}", new)
        new.replace(file)


def damage(files: Mapping[str, str]) -> None:
    Path(files["cert"]).write_text("-----BEGIN CERTIFICATE-----\nMIIB")


def remove(files: Mapping[str, str]) -> None:
    Path(files["cert"]).unlink()


async def test_certificates_change_without_a_restart(
    files: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "penstock")
    async with listening(files) as (_, server):
        async with penstock.aio.Client(server.addresses[0], tls=NAMELESS) as early:
            await early.generate("Hi", model="test/echo")
            put(files, "client")  # a certificate that is good for no server
            with pytest.raises(penstock.ServiceUnavailableError):
                await asked(server, "aio", NAMELESS)
            assert await early.generate("Hi", model="test/echo")  # goes on as it began
        put(files, "server")
        assert await asked(server, "aio", NAMELESS)
        damage(files)
        assert await asked(server, "aio", NAMELESS)  # by what was there before
        remove(files)
        assert await asked(server, "aio", NAMELESS)
    said = [record.getMessage() for record in caplog.records if record.name == "penstock"]
    assert said.count("certificates renewed") == 2
    assert said.count("the certificates cannot be renewed") >= 2


async def test_unix_sockets_do_without(files: Mapping[str, str], tmp_path: Path) -> None:
    async with (
        listening(files, f"unix:{tmp_path / 'socket'}") as (_, server),
        penstock.aio.Client(server.addresses[1]) as client,
    ):
        assert await client.generate("Hi", model="test/echo")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cert": "nowhere.pem"}, "nowhere.pem: No such file"),
        ({"key": str(CERTIFICATES / "client.key")}, "cannot be used"),
        ({"client_ca": str(CERTIFICATES / "client.key")}, "cannot be used"),
    ],
)
async def test_what_cannot_be_used_is_said_at_the_start(
    files: Mapping[str, str], change: Mapping[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Server(config({**files, **change}), [])


@pytest.mark.parametrize(
    ("tls", "said"),
    [({"cert": "a"}, "go together"), ({"client_ca": "a"}, "client_ca needs")],
)
def test_what_goes_together(tls: Mapping[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(tls)
