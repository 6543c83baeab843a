"""How a client reaches its server: target, token, TLS, policy; checked on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from penstock import TLSOptions, v1
from penstock._channel import is_local, settings

if TYPE_CHECKING:
    from tests.client.conftest import Connect, Fail, Server

    Serve = Callable[..., Awaitable[Server]]

CERTIFICATES = Path(__file__).parent / "certs"
CA = CERTIFICATES / "ca.pem"
CLIENT_TLS = TLSOptions(
    ca=CA, certificate=CERTIFICATES / "client.pem", key=CERTIFICATES / "client.key"
)


# --- what a client is told ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "environ", "expected", "tls"),
    [
        (None, {}, "127.0.0.1:50051", False),
        (None, {"PENSTOCK_TARGET": ""}, "127.0.0.1:50051", False),
        (None, {"PENSTOCK_TARGET": "a:1"}, "a:1", False),
        (None, {"PENSTOCK_TARGET": "grpcs://a:1"}, "a:1", True),
        ("b:2", {"PENSTOCK_TARGET": "a:1"}, "b:2", False),
        ("grpc://b:2", {}, "b:2", False),
        ("grpcs://b:2/", {}, "b:2", True),
        ("unix:/run/penstock.sock", {}, "unix:/run/penstock.sock", False),
        ("dns:///gateway:50051", {}, "dns:///gateway:50051", False),
    ],
)
def test_targets(target: str | None, environ: dict[str, str], expected: str, tls: bool) -> None:
    made = settings(target, environ=environ)
    assert made.target == expected
    assert (made.credentials is not None) is tls


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"target": "http://a:1"}, "write host:port"),
        ({"target": "https://a:1"}, "grpcs://"),
        ({"target": "grpcs://"}, "names no host"),
        ({"target": "grpcs://a:1", "tls": False}, "contradict"),
        ({"target": "grpc://a:1", "tls": True}, "contradict"),
        ({"target": "a:1", "token": "secret"}, "in the clear"),
        ({"target": "127.0.0.1:1,a:1", "token": "secret"}, "in the clear"),
        ({"target": "127.0.0.1:1", "token": "sécret"}, "ASCII"),
        ({"target": "127.0.0.1:1", "token": "a\nb"}, "ASCII"),
        ({"tls": TLSOptions(ca=b"no certificate")}, "TLS ca: holds no PEM"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**arguments, environ={})


def test_half_a_client_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="certificate and key go together"):
        TLSOptions(certificate=b"")
    with pytest.raises(FileNotFoundError):
        settings(tls=TLSOptions(ca="/no/such/file.pem"), environ={})


def test_where_a_token_may_go() -> None:
    for target in ("127.0.0.1:1", "unix:/a", "grpcs://a:1"):
        assert settings(target, token="t", environ={}).metadata
    assert settings("a:1", token="t", tls=False, environ={}).metadata  # asked for
    assert settings("a:1", token="t", tls=True, environ={}).metadata
    assert not settings("a:1", token="", environ={"PENSTOCK_TOKEN": "t"}).metadata
    with pytest.raises(ValueError, match="in the clear"):
        settings("a:1", environ={"PENSTOCK_TOKEN": "t"})


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("localhost:1", True),
        ("localhost", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9", True),
        ("[::1]:1", True),
        ("[::1]", True),
        ("::1", True),
        ("a.localhost:1", True),
        ("unix:relative", True),
        ("unix-abstract:name", True),
        ("dns:///localhost:1", True),
        ("dns:localhost:1", True),
        ("dns://8.8.8.8/localhost:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("example.com:1", False),
        ("localhost.example.com:1", False),
        ("10.0.0.1:1", False),
        ("0.0.0.0:1", False),
        ("dns:///example.com:1", False),
        ("xds:///localhost", False),
        ("[2001:db8::1]:1", False),
    ],
)
def test_which_addresses_are_local(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_policy() -> None:
    options = dict(settings(environ={}).options)

    # The server permits a ping every 10 s without data.
    assert options["grpc.keepalive_time_ms"] >= 20_000
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert options["grpc.max_receive_message_length"] == 64 * 1024 * 1024
    assert options["grpc.max_send_message_length"] == -1
    (config,) = json.loads(options["grpc.service_config"])["methodConfig"]
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert config["name"] == [
        {"service": service.full_name}
        for file in (
            v1.generation_service_pb2,
            v1.model_service_pb2,
            v1.embedding_service_pb2,
        )
        for service in file.DESCRIPTOR.services_by_name.values()
    ]


def test_own_options_go_first() -> None:
    made = settings(
        options={"grpc.keepalive_time_ms": 99_000, "grpc.lb_policy_name": "round_robin"},
        max_receive_bytes=-1,
        environ={},
    )
    options = dict(made.options)

    assert len(options) == len(made.options)
    assert options["grpc.keepalive_time_ms"] == 99_000
    assert options["grpc.lb_policy_name"] == "round_robin"
    assert options["grpc.max_receive_message_length"] == -1
    assert options["grpc.keepalive_timeout_ms"] == 15_000


# --- what arrives -------------------------------------------------------------------------------


async def test_token_metadata_and_user_agent_arrive(connect: Connect, server: Server) -> None:
    client = connect(server.target, token="secret\n", metadata={"X-Team": "a", "x-trace": "1"})
    await client.generate("Hi", model="m", metadata=[("X-Trace", "2"), ("x-raw-bin", b"\xff")])
    _ = [event async for event in client.stream("Hi", model="m")]
    _ = [step async for step in client.load_model("m", metadata={"authorization": "Basic x"})]

    unary, stream, load = (call.metadata for call in server.calls)
    assert unary["authorization"] == "Bearer secret"
    assert unary["x-team"] == "a"
    assert unary["x-trace"] == "2"  # the call's own
    assert unary["x-raw-bin"] == b"\xff"
    assert str(unary["user-agent"]).startswith(f"penstock-python/{penstock.__version__} grpc")
    assert (stream["authorization"], stream["x-trace"]) == ("Bearer secret", "1")
    assert load["authorization"] == "Basic x"


async def test_environment(
    connect: Connect, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_TARGET", server.target)
    monkeypatch.setenv("PENSTOCK_TOKEN", "from the environment")
    await connect().generate("Hi", model="m")

    assert server.calls[0].metadata["authorization"] == "Bearer from the environment"


async def test_unix_socket(connect: Connect, serve: Serve, tmp_path: Path) -> None:
    server = await serve(f"unix:{tmp_path}/penstock.sock")
    await connect(server.target, token="secret").generate("Hi", model="m")

    assert server.calls[0].metadata["authorization"] == "Bearer secret"


def server_credentials(*, mutual: bool = False) -> grpc.ServerCredentials:
    pair = [(CERTIFICATES / name).read_bytes() for name in ("server.key", "server.pem")]
    root = CA.read_bytes() if mutual else None
    return grpc.ssl_server_credentials([(pair[0], pair[1])], root, mutual)


async def test_tls(connect: Connect, serve: Serve) -> None:
    server = await serve(credentials=server_credentials())
    by_path = connect(f"grpcs://{server.target}", tls=TLSOptions(ca=CA), token="secret")
    by_bytes = connect(server.target, tls=TLSOptions(ca=CA.read_bytes()))

    assert await by_path.health() == "SERVING"
    await by_path.generate("Hi", model="m")
    assert await by_bytes.health() == "SERVING"
    assert server.calls[0].metadata["authorization"] == "Bearer secret"
    for tls, hint in ((True, "--ca"), (None, "want TLS")):
        with pytest.raises(penstock.ServiceUnavailableError) as raised:
            await connect(server.target, tls=tls).health()
        assert hint in raised.value.hint


async def test_tls_to_a_server_without(connect: Connect, server: Server) -> None:
    with pytest.raises(penstock.ServiceUnavailableError, match="seems to speak no TLS"):
        await connect(server.target, tls=TLSOptions(ca=CA)).health()


async def test_mutual_tls(connect: Connect, serve: Serve) -> None:
    server = await serve(credentials=server_credentials(mutual=True))

    assert await connect(server.target, tls=CLIENT_TLS).health() == "SERVING"
    with pytest.raises(penstock.ServiceUnavailableError, match="a client certificate"):
        await connect(server.target, tls=TLSOptions(ca=CA)).health()


async def test_server_name(connect: Connect, serve: Serve) -> None:
    server = await serve(credentials=server_credentials())
    right = TLSOptions(ca=CA, server_name="localhost")
    wrong = TLSOptions(ca=CA, server_name="gateway.example.com")

    assert await connect(server.target, tls=right).health() == "SERVING"
    with pytest.raises(penstock.ServiceUnavailableError):
        await connect(server.target, tls=wrong).health()


# --- retries ------------------------------------------------------------------------------------


def unavailable() -> ErrorInfo:
    return ErrorInfo(domain="penstock", reason="SIDECAR_UNAVAILABLE")


@pytest.mark.parametrize("prompt", ["Hi", "x" * 1_000_000], ids=["small", "large"])
async def test_unavailable_is_tried_again(
    client: penstock.aio.Client, server: Server, fail: Fail, prompt: str
) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        if len(server.calls) < 3:
            await fail(context, grpc.StatusCode.UNAVAILABLE, "not yet", unavailable())
        return v1.GenerateResponse(id="third")

    server.generate = generate
    assert (await client.generate(prompt, model="m")).id == "third"
    assert len(server.calls) == 3


async def test_a_stream_that_has_not_begun_is_tried_again(
    client: penstock.aio.Client, server: Server, fail: Fail
) -> None:
    usual = server.stream

    async def stream(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        if len(server.calls) < 2:
            await fail(context, grpc.StatusCode.UNAVAILABLE, "not yet", unavailable())
        async for event in usual(request, context):
            yield event

    server.stream = stream
    assert [piece async for piece in client.stream("Hi", model="m").text()]
    assert len(server.calls) == 2


async def test_a_stream_that_has_begun_is_not(
    client: penstock.aio.Client, server: Server, fail: Fail
) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        yield v1.StreamGenerateResponse(part_delta=v1.PartDelta(text="a"))
        await fail(context, grpc.StatusCode.UNAVAILABLE, "lost", unavailable())

    server.stream = stream
    with pytest.raises(penstock.ProviderUnavailableError):
        _ = [piece async for piece in client.stream("Hi", model="m").text()]
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
    ],
)
async def test_nothing_else_is_tried_again(
    client: penstock.aio.Client, server: Server, fail: Fail, code: grpc.StatusCode
) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        await fail(context, code, "no")
        return v1.GenerateResponse()

    server.generate = generate
    with pytest.raises(penstock.PenstockError):
        await client.generate("Hi", model="m")
    assert len(server.calls) == 1


async def test_a_server_that_comes_back_is_found_again(
    connect: Connect, serve: Serve, tmp_path: Path
) -> None:
    client = connect(f"unix:{tmp_path}/later.sock", timeout=20)
    asking = asyncio.create_task(client.generate("Hi", model="m"))
    with pytest.raises(penstock.ServiceUnavailableError):
        await client.health()  # tried once, and by now refused
    await serve(f"unix:{tmp_path}/later.sock")

    assert penstock.text_of(await asking) == "Hello there."
