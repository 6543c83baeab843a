"""Errors: the tables, the tree, and what becomes of a status on the wire, in both flavours."""

from __future__ import annotations

import pickle
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, DebugInfo, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from penstock import errors, v1
from penstock.errors import from_rpc_error

if TYPE_CHECKING:
    from tests.client.conftest import Connect, Fail, Server

Code = grpc.StatusCode

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, penstock.PenstockError)
]


def packed(message: Message) -> AnyMessage:
    any_message = AnyMessage()
    any_message.Pack(message)
    return any_message


def rpc_error(
    code: grpc.StatusCode,
    message: str = "",
    *details: Message,
    raw: bytes | None = None,
) -> grpc.aio.AioRpcError:
    """What grpc.aio raises for a status like this."""
    status = Status(code=code.value[0], message=message, details=map(packed, details))
    value = status.SerializeToString() if raw is None else raw
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", value), ("other", "x"))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details=message)


def info(reason: str, domain: str = "penstock", **metadata: str) -> ErrorInfo:
    return ErrorInfo(reason=reason, domain=domain, metadata=metadata)


# --- the tree and the tables ------------------------------------------------------------------


def test_every_class_is_public_and_drawn() -> None:
    drawn = set(re.findall(r"(\w+Error)\b", (errors.__doc__ or "").partition("A failure")[0]))
    assert {kind.__name__ for kind in KINDS} == drawn - {"TimeoutError"}
    for kind in KINDS:
        assert getattr(penstock, kind.__name__) is kind
        assert kind.__name__ in penstock.__all__
        assert kind.__doc__


def test_the_tree_is_as_drawn() -> None:
    tree = (errors.__doc__ or "").partition("::\n")[2].partition("A failure")[0]
    path: list[type] = []
    for line in tree.splitlines():
        match = re.match(r"    ([│ ├└─]*)(\w+Error)", line)
        if match is None:
            continue
        depth, kind = len(match[1]) // 4, getattr(errors, match[2])
        path[depth:] = [kind]
        if depth:
            assert issubclass(kind, path[depth - 1]), kind
    assert len(path) > 0


def test_every_reason_has_a_row() -> None:
    assert errors.BY_REASON.keys() == set(v1.ErrorReason.values())


def test_every_code_has_a_class() -> None:
    for code in Code:
        raised = from_rpc_error(rpc_error(code, "hm"))
        assert raised.code is code
        assert raised.reason == ""
        assert raised.message == "hm"


@pytest.mark.parametrize(
    ("reason", "kind", "also"),
    [
        ("INVALID_REQUEST", penstock.InvalidRequestError, penstock.ProviderError),
        ("CONTEXT_LENGTH_EXCEEDED", penstock.ContextLengthError, penstock.InvalidRequestError),
        ("MESSAGE_TOO_LARGE", penstock.MessageTooLargeError, penstock.InvalidRequestError),
        ("CONTENT_REFUSED", penstock.ContentRefusedError, penstock.InvalidRequestError),
        ("MODEL_NOT_FOUND", penstock.ModelNotFoundError, penstock.ProviderError),
        ("PROVIDER_NOT_FOUND", penstock.ModelNotFoundError, penstock.ProviderError),
        ("UNSUPPORTED_FEATURE", penstock.UnsupportedFeatureError, penstock.PenstockError),
        ("CALLER_UNAUTHENTICATED", penstock.AuthenticationError, penstock.ProviderError),
        ("CALLER_FORBIDDEN", penstock.PermissionDeniedError, penstock.PenstockError),
        ("PROVIDER_AUTHENTICATION", penstock.AuthenticationError, penstock.ProviderError),
        ("PROVIDER_RATE_LIMITED", penstock.RateLimitError, penstock.ProviderError),
        ("PROVIDER_QUOTA_EXHAUSTED", penstock.QuotaExhaustedError, penstock.RateLimitError),
        ("OVERLOADED", penstock.RateLimitError, penstock.ProviderError),
        ("PROVIDER_UNAVAILABLE", penstock.ProviderUnavailableError, penstock.ProviderAPIError),
        ("SIDECAR_UNAVAILABLE", penstock.ProviderUnavailableError, penstock.ProviderAPIError),
        ("SIDECAR_LOST", penstock.SidecarLostError, penstock.ServiceUnavailableError),
        ("SHUTTING_DOWN", penstock.ServiceUnavailableError, penstock.PenstockError),
        ("PROVIDER_TIMEOUT", penstock.ProviderTimeoutError, TimeoutError),
        ("PROVIDER_PROTOCOL", penstock.ProviderAPIError, penstock.ProviderError),
        ("ENGINE_FAILURE", penstock.ProviderAPIError, penstock.ProviderError),
        ("INTERNAL_ERROR", penstock.InternalError, penstock.PenstockError),
    ],
)
def test_what_a_reason_raises(reason: str, kind: type, also: type) -> None:
    raised = from_rpc_error(rpc_error(Code.INTERNAL, "no", info(reason)))

    assert type(raised) is kind
    assert isinstance(raised, also)
    assert raised.reason == reason


@pytest.mark.parametrize(
    ("code", "message", "kind", "hint"),
    [
        (Code.CANCELLED, "", penstock.CancelledCallError, ""),
        (Code.UNKNOWN, "Unexpected <class 'KeyError'>", penstock.InternalError, ""),
        (Code.INVALID_ARGUMENT, "", penstock.InvalidRequestError, ""),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", penstock.DeadlineExceededError, ""),
        (Code.NOT_FOUND, "", penstock.ModelNotFoundError, ""),
        (Code.PERMISSION_DENIED, "", penstock.PermissionDeniedError, ""),
        (Code.UNAUTHENTICATED, "", penstock.AuthenticationError, "PENSTOCK_TOKEN"),
        (Code.UNIMPLEMENTED, "", penstock.UnsupportedFeatureError, "host:1 a Penstock server"),
        (Code.UNAVAILABLE, "Socket closed", penstock.ServiceUnavailableError, ""),
        (
            Code.UNAVAILABLE,
            "failed to connect to all addresses; last error: Connection refused",
            penstock.ServiceUnavailableError,
            "is a server running at host:1",
        ),
        (
            Code.RESOURCE_EXHAUSTED,
            "SERVER: Received message larger than max (5 vs. 4)",
            penstock.MessageTooLargeError,
            "",
        ),
        (
            Code.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (5 vs. 4)",
            penstock.MessageTooLargeError,
            "max_receive_bytes",
        ),
        (
            Code.RESOURCE_EXHAUSTED,
            "Concurrent RPC limit exceeded!",
            penstock.RateLimitError,
            "",
        ),
        (Code.RESOURCE_EXHAUSTED, "something is used up", penstock.PenstockError, ""),
        (Code.FAILED_PRECONDITION, "", penstock.PenstockError, ""),
        (Code.ABORTED, "", penstock.PenstockError, ""),
        (Code.INTERNAL, "", penstock.InternalError, ""),
    ],
)
def test_a_status_without_a_reason(
    code: grpc.StatusCode, message: str, kind: type, hint: str
) -> None:
    raised = from_rpc_error(rpc_error(code, message), target="host:1")

    assert type(raised) is kind
    assert (raised.code, raised.message, raised.reason) == (code, message, "")
    assert hint in raised.hint
    assert bool(hint) == bool(raised.hint)
    assert str(raised).startswith(f"{message} ({code.name})" if message else code.name)


# --- details ----------------------------------------------------------------------------------


def test_everything_on_the_wire_is_kept() -> None:
    retry = RetryInfo()
    retry.retry_delay.FromMilliseconds(2500)
    violation = BadRequest.FieldViolation(field="sampling.top_k", description="must be at least 1")
    sent = (
        info("PROVIDER_RATE_LIMITED", model="m", provider="p", request_id="abc", upstream="x"),
        retry,
        BadRequest(field_violations=[violation]),
        DebugInfo(detail="of a kind that the client does not know"),
    )
    raised = from_rpc_error(rpc_error(Code.RESOURCE_EXHAUSTED, "slower, please", *sent))

    assert (raised.model, raised.provider, raised.request_id) == ("m", "p", "abc")
    assert raised.metadata["upstream"] == "x"
    assert raised.retry_delay == 2.5
    assert raised.field_violations == (("sampling.top_k", "must be at least 1"),)
    assert raised.field_violations[0].field == "sampling.top_k"
    assert raised.details == tuple(map(packed, sent))
    assert str(raised) == "slower, please (PROVIDER_RATE_LIMITED, request abc)"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xff\xff",
        b"not a status",
        Status(details=[AnyMessage(type_url="x/google.rpc.ErrorInfo", value=b"\xff")])
        .SerializeToString(),
        Status(details=[AnyMessage(type_url="nonsense", value=b"")]).SerializeToString(),
    ],
)  # fmt: skip
def test_details_that_cannot_be_read_do_not_hide_the_failure(raw: bytes) -> None:
    raised = from_rpc_error(rpc_error(Code.INVALID_ARGUMENT, "wrong", raw=raw))

    assert type(raised) is penstock.InvalidRequestError
    assert (raised.message, raised.reason) == ("wrong", "")


def test_details_that_disagree_with_the_code_are_still_read() -> None:
    other = Status(code=Code.INTERNAL.value[0], message="another")
    other.details.append(packed(info("OVERLOADED")))
    raised = from_rpc_error(
        rpc_error(Code.RESOURCE_EXHAUSTED, "full", raw=other.SerializeToString())
    )

    assert type(raised) is penstock.RateLimitError
    assert (raised.code, raised.message) == (Code.RESOURCE_EXHAUSTED, "full")


def test_reasons_of_other_services_are_not_ours() -> None:
    raised = from_rpc_error(
        rpc_error(Code.PERMISSION_DENIED, "no", info("OVERLOADED", "example.com", a="b"))
    )

    assert type(raised) is penstock.PermissionDeniedError
    assert raised.reason == ""
    assert raised.metadata == {}
    assert len(raised.details) == 1


def test_a_newer_server_may_have_more_reasons() -> None:
    raised = from_rpc_error(
        rpc_error(Code.RESOURCE_EXHAUSTED, "larger than max", info("NEW_REASON", request_id="r"))
    )

    assert type(raised) is penstock.PenstockError  # not guessed from the text
    assert raised.reason == "NEW_REASON"
    assert raised.request_id == "r"


def test_a_bare_rpc_error_is_reported_too() -> None:
    raised = from_rpc_error(grpc.RpcError("what?"))

    assert (raised.message, raised.code) == ("what?", Code.UNKNOWN)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_errors_can_be_made_printed_and_pickled(kind: type[penstock.PenstockError]) -> None:
    error = kind(
        "no",
        code=Code.ABORTED,
        reason="WHY",
        metadata={"request_id": "r"},
        field_violations=[penstock.FieldViolation("f", "d")],
        retry_delay=1.5,
        details=[packed(info("WHY"))],
        hint="do this",
    )
    copy = pickle.loads(pickle.dumps(error))

    assert str(error) == str(copy) == "no (WHY, request r); do this"
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(kind()) == "UNKNOWN"


# --- over the wire ----------------------------------------------------------------------------


async def test_a_unary_call_that_fails(
    client: penstock.aio.Client, server: Server, fail: Fail
) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        violation = BadRequest.FieldViolation(field="model", description="is empty")
        details = info("INVALID_REQUEST", request_id="r1"), BadRequest(field_violations=[violation])
        await fail(context, Code.INVALID_ARGUMENT, "model: is empty", *details)
        return v1.GenerateResponse()

    server.generate = generate
    with pytest.raises(penstock.InvalidRequestError) as raised:
        await client.generate("Hi")

    assert raised.value.field_violations == (("model", "is empty"),)
    assert str(raised.value) == "model: is empty (INVALID_REQUEST, request r1)"
    assert isinstance(raised.value.__cause__, grpc.RpcError)


@pytest.mark.parametrize("raw", [b"", b"\xff\xff\xff"])
async def test_without_readable_details(
    client: penstock.aio.Client, server: Server, fail: Fail, raw: bytes
) -> None:
    async def get_model(request: Any, context: Any) -> v1.GetModelResponse:
        await fail(context, Code.PERMISSION_DENIED, "no", raw=raw)
        return v1.GetModelResponse()

    server.get_model = get_model
    with pytest.raises(penstock.PermissionDeniedError, match=r"no \(PERMISSION_DENIED\)"):
        await client.get_model("local/tiny")


async def test_a_stream_that_fails_keeps_what_came_before(
    client: penstock.aio.Client, server: Server, fail: Fail
) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        for piece in ("one ", "two"):
            yield v1.StreamGenerateResponse(part_delta=v1.PartDelta(text=piece))
        await fail(context, Code.UNAVAILABLE, "it crashed", info("SIDECAR_LOST", exit_code="-9"))

    server.stream = stream
    events = client.stream("Hi", model="m")
    pieces = []
    with pytest.raises(penstock.SidecarLostError) as raised:
        async for piece in events.text():
            pieces.append(piece)

    assert pieces == ["one ", "two"]
    assert events.response is None
    assert raised.value.metadata["exit_code"] == "-9"
    assert isinstance(raised.value.__cause__, grpc.RpcError)


async def test_loading_that_fails(client: penstock.aio.Client, server: Server, fail: Fail) -> None:
    async def load(request: Any, context: Any) -> AsyncIterator[v1.LoadModelResponse]:
        yield v1.LoadModelResponse(progress=0.5)
        await fail(context, Code.UNAVAILABLE, "no memory", info("SIDECAR_UNAVAILABLE"))

    server.load_model = load
    with pytest.raises(penstock.ProviderUnavailableError, match="no memory"):
        _ = [step async for step in client.load_model("local/tiny")]


async def test_the_server_may_cancel(
    client: penstock.aio.Client, server: Server, fail: Fail
) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        await fail(context, Code.CANCELLED, "not today")
        return v1.GenerateResponse()

    server.generate = generate
    with pytest.raises(penstock.CancelledCallError, match="not today"):
        await client.generate("Hi", model="m")


async def test_a_fault_in_the_server(client: penstock.aio.Client, server: Server) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        raise KeyError("oops")

    server.generate = generate
    with pytest.raises(penstock.InternalError, match="UNKNOWN"):
        await client.generate("Hi", model="m")


async def test_an_error_larger_than_grpc_would_take(
    client: penstock.aio.Client, server: Server, fail: Fail
) -> None:
    violations = [
        BadRequest.FieldViolation(field=f"messages[{n}].parts", description="is empty" * 8)
        for n in range(120)
    ]

    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        details = info("INVALID_REQUEST"), BadRequest(field_violations=violations)
        await fail(context, Code.INVALID_ARGUMENT, "many", *details)
        return v1.GenerateResponse()

    server.generate = generate
    with pytest.raises(penstock.InvalidRequestError) as raised:
        await client.generate("Hi", model="m")
    assert len(raised.value.field_violations) == 120


async def test_no_server(connect: Connect) -> None:
    client = connect("127.0.0.1:1")
    with pytest.raises(penstock.ServiceUnavailableError) as raised:
        await client.health()

    assert raised.value.code is Code.UNAVAILABLE
    assert "is a server running at 127.0.0.1:1?" in str(raised.value)


async def test_not_a_penstock_server(connect: Connect) -> None:
    bare = grpc.aio.server()
    port = bare.add_insecure_port("127.0.0.1:0")
    await bare.start()
    client = connect(f"127.0.0.1:{port}")
    with pytest.raises(penstock.UnsupportedFeatureError, match="a Penstock server"):
        await client.health()
    await bare.stop(0)


async def test_messages_that_are_too_large(connect: Connect, server: Server) -> None:
    large = "x" * 5_000_000  # over the scripted server's limit, which is gRPC's own

    with pytest.raises(penstock.MessageTooLargeError, match="SERVER: Received"):
        await connect(server.target).generate(large, model="m")
    with pytest.raises(penstock.MessageTooLargeError, match="max_receive_bytes"):
        await connect(server.target, max_receive_bytes=5).generate("Hi", model="m")
