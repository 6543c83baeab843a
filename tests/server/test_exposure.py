"""Who can reach a server: loopback alone, unless callers prove themselves or somebody insists."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import penstock
import pytest
from penstock_server.access_settings import is_loopback
from penstock_server.config import GatewayConfig, ServerConfig
from penstock_server.identity import hash_of
from pydantic import ValidationError

from tests.support.processes import ServerProcess, gateway, local_tiny, sidecar

TOKEN = {"callers": {"me": {"tokens": hash_of("x")}}}
CERTIFICATES = {"tls": {"cert": "a", "key": "b", "client_ca": "c"}}
JWT = {"auth": {"jwt": {"issuer": "i", "audience": "a", "jwks_url": "https://issuer.example/keys"}}}


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.10:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("ipv6:[::1]:1", True),
        ("unix:/run/p.sock", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.com:1", False),
        ("*:1", False),
    ],
)
def test_what_is_loopback(address: str, local: bool) -> None:
    assert is_loopback(address) == local


@pytest.mark.parametrize("kind", [GatewayConfig, ServerConfig])
def test_nobody_is_let_in_from_elsewhere_by_mistake(kind: type[ServerConfig]) -> None:
    wide = {"listen": "127.0.0.1:1, 0.0.0.0:2"}
    for more in ({}, {"tls": {"cert": "a", "key": "b"}}):
        with pytest.raises(ValidationError, match=r"0\.0\.0\.0:2 may be reached .* --insecure"):
            kind.model_validate({**wide, **more})
    kind.model_validate({**wide, **CERTIFICATES})
    kind.model_validate({**wide, "insecure": True})


@pytest.mark.parametrize("known", [TOKEN, CERTIFICATES, JWT])
def test_callers_that_prove_themselves_may_come_from_everywhere(known: dict[str, Any]) -> None:
    GatewayConfig.model_validate({"listen": "0.0.0.0:1", **known})
    anonymous = {"auth": {**known.get("auth", {}), "anonymous": "default"}}
    with pytest.raises(ValidationError, match="may be reached"):
        GatewayConfig.model_validate({"listen": "0.0.0.0:1", **known, **anonymous})


def test_keys_come_by_tls() -> None:
    plain = {**JWT["auth"]["jwt"], "jwks_url": "http://issuer.example/keys"}
    with pytest.raises(ValidationError, match="keys that come without TLS prove nothing"):
        GatewayConfig.model_validate({"auth": {"jwt": plain}})


def refusal(module: str, *flags: str) -> str:
    command = [sys.executable, "-m", module, "--listen", "0.0.0.0:0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    return done.stderr


@pytest.mark.parametrize("module", ["penstock_server", "penstock_hf"])
def test_servers_say_what_to_do(module: str) -> None:
    flags = ["--model", "models/tiny"] if module == "penstock_hf" else []
    said = refusal(module, *flags)
    assert "may be reached from other machines" in said
    assert "--insecure" in said


def told(process: ServerProcess) -> str:
    line = process.ready().wait_for(lambda line: line["level"] == "warning")
    return str(line["message"])


def test_what_somebody_insists_on_is_warned_of() -> None:
    with gateway("--insecure", listen="0.0.0.0:0") as process:
        assert told(process) == "everybody who reaches it may call this server"
    with sidecar("--insecure", listen="[::]:0") as process:
        assert told(process) == "everybody who reaches it may call this server"


def test_a_token_from_the_command_line_to_a_call() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "penstock_server", "--new-token", "me"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    (token,) = (word for word in made.split() if word.startswith("penstock_"))
    (digest,) = (word for word in made.split('"') if word.startswith("sha256:"))
    flags = ["--set", f"callers.me.tokens={digest}"]
    with gateway(*local_tiny(), *flags, listen="0.0.0.0:0") as process:
        assert told(process) == "tokens and prompts travel without TLS"
        target = process.address.replace("0.0.0.0", "127.0.0.1")
        with penstock.Client(target, token=token) as client:
            assert client.generate("Hi", model="local/tiny", max_output_tokens=1).message
        with penstock.Client(target) as client, pytest.raises(penstock.AuthenticationError):
            client.generate("Hi", model="local/tiny")
        assert token not in str(process.log)
