"""What is wrong is told with status, reason and field, and harms nobody: on the wire, with a
stream running beside it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from google.protobuf import json_format
from penstock import v1
from penstock.errors import from_rpc_error

from tests.support.processes import ServerProcess

if TYPE_CHECKING:
    Raw = grpc.UnaryUnaryMultiCallable[bytes, bytes]

GENERATE = "/penstock.v1.GenerationService/Generate"
HI = {"model": "local/tiny", "prompt": "Hi"}


def _user(*parts: object) -> dict[str, object]:
    return {"role": "ROLE_USER", "parts": list(parts)}


def _with(**more: object) -> bytes:
    request = json_format.ParseDict({**HI, **more}, v1.GenerateRequest())
    return request.SerializeToString()


def _talk(*messages: object) -> bytes:
    return _with(prompt="", messages=list(messages))


_RESULT = {"role": "ROLE_TOOL", "parts": [{"tool_result": {"tool_call_id": "call-9"}}]}
_BAD_TEXT = _with(prompt="PLACEHOLDER").replace(b"PLACEHOLDER", b"caf\xe9 au lai")

# What is sent → status, reason, the wrong field ("" where no single field is wrong).
BAD: dict[str, tuple[bytes, str, str, str]] = {
    "nothing at all": (b"", "INVALID_ARGUMENT", "INVALID_REQUEST", "model"),
    "no model": (_with(model=""), "INVALID_ARGUMENT", "INVALID_REQUEST", "model"),
    "an unknown model": (_with(model="local/big"), "NOT_FOUND", "MODEL_NOT_FOUND", ""),
    "an unknown provider": (_with(model="locla/tiny"), "NOT_FOUND", "PROVIDER_NOT_FOUND", ""),
    "neither prompt nor messages": (_talk(), "INVALID_ARGUMENT", "INVALID_REQUEST", "prompt"),
    "a message without parts": (
        _talk(_user()),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "messages[0].parts",
    ),
    "a part without content": (
        _talk(_user({})),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "messages[0].parts[0]",
    ),
    "an unknown role": (
        _talk({"role": 99, "parts": [{"text": "a"}]}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "messages[0].role",
    ),
    "no role": (
        _talk({"parts": [{"text": "a"}]}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "messages[0].role",
    ),
    "a tool result for no call": (
        _talk(_RESULT),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "messages[0].parts[0].tool_result.tool_call_id",
    ),
    "a user who calls tools": (
        _talk(_user({"tool_call": {"id": "1", "name": "f", "arguments": "{}"}})),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "messages[0].parts[0].tool_call",
    ),
    "an image without media type": (
        _talk(_user({"image": {"data": "iVBORw0="}})),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "messages[0].parts[0].image.media_type",
    ),
    "a local file as URL": (
        _talk(_user({"image": {"url": "file:///etc/passwd"}})),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "messages[0].parts[0].image.url",
    ),
    "temperature 9": (
        _with(sampling={"temperature": 9}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "sampling.temperature",
    ),
    "temperature NaN": (
        _with(sampling={"temperature": "NaN"}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "sampling.temperature",
    ),
    "no tokens": (
        _with(sampling={"max_output_tokens": 0}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "sampling.max_output_tokens",
    ),
    "an empty stop string": (
        _with(sampling={"stop": [""]}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "sampling.stop[0]",
    ),
    "a tool's name with spaces": (
        _with(tools=[{"name": "look up"}]),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "tools[0].name",
    ),
    "parameters that are no JSON": (
        _with(tools=[{"name": "f", "parameters": "{'type': 'object'}"}]),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "tools[0].parameters",
    ),
    "an invalid JSON Schema": (
        _with(response_format={"json_schema": {"schema": '{"type": "objct"}'}}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "response_format.json_schema.schema",
    ),
    "a tool choice of no tool": (
        _with(tool_choice={"mode": "MODE_TOOL", "tool_name": "f"}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "tool_choice.tool_name",
    ),
    "21 alternatives": (
        _with(logprobs={"top_logprobs": 21}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "logprobs.top_logprobs",
    ),
    "too many labels": (
        _with(metadata={str(n): "" for n in range(17)}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "metadata",
    ),
    "invalid UTF-8": (_BAD_TEXT, "INVALID_ARGUMENT", "INVALID_REQUEST", "prompt"),
    "bytes that are no message": (
        b"\x07\x07\x07",
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "penstock.v1.GenerateRequest",
    ),
    "a prompt that does not fit": (
        _with(prompt="river " * 5_000),
        "INVALID_ARGUMENT",
        "CONTEXT_LENGTH_EXCEEDED",
        "",
    ),
    "a sound for a model that reads": (
        _talk(_user({"audio": {"data": "UklGRg==", "media_type": "audio/wav"}})),
        "FAILED_PRECONDITION",
        "UNSUPPORTED_FEATURE",
        "",
    ),
    "a 65 MiB message": (
        _with(prompt="x" * (65 * 1024 * 1024)),
        "RESOURCE_EXHAUSTED",
        "MESSAGE_TOO_LARGE",
        "request",
    ),
}


@pytest.fixture(scope="module")
def channel(gateway_process: ServerProcess) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(gateway_process.address, options=options) as channel:
        yield channel


def beside(address: str, meanwhile: Callable[[], object] = lambda: None) -> str:
    """What a caller hears who always asks the same, while something else happens."""
    with (
        penstock.Client(address, timeout=60) as client,
        client.stream("Tell me a story.", model="local/tiny", seed=3, max_output_tokens=12) as s,
    ):
        said = next(s.text())
        meanwhile()
        return said + "".join(s.text())


@pytest.fixture(scope="module")
def undisturbed(gateway_process: ServerProcess) -> str:
    return beside(gateway_process.address)


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(
    channel: grpc.Channel,
    gateway_process: ServerProcess,
    undisturbed: str,
    report: Callable[[str], None],
    name: str,
) -> None:
    raw, status, reason, field = BAD[name]
    failures: list[penstock.PenstockError] = []

    def send() -> None:
        with pytest.raises(grpc.RpcError) as caught:
            generate: Raw = channel.unary_unary(GENERATE)
            generate(raw, timeout=60)
        failures.append(from_rpc_error(caught.value))

    assert beside(gateway_process.address, send) == undisturbed
    (error,) = failures
    fields = [violation.field for violation in error.field_violations]
    report(f"{error.code.name} · {error.reason} · {fields[0] if fields else '–'}")
    assert (error.code.name, error.reason) == (status, reason)
    assert error.request_id
    assert (field in fields) if field else not fields


def test_a_deadline_that_has_passed(channel: grpc.Channel, report: Callable[[str], None]) -> None:
    stub = v1.GenerationServiceStub(channel)
    for timeout in (-1, 0.0):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Generate(v1.GenerateRequest(model="local/tiny", prompt="Hi"), timeout=timeout)
        error: Any = caught.value
        report(f"timeout {timeout}: {error.code().name} · – · –")
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_methods_that_do_not_exist(channel: grpc.Channel, report: Callable[[str], None]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call: Raw = channel.unary_unary("/penstock.v1.GenerationService/Regenerate")
        call(b"")
    error: Any = caught.value
    report(f"{error.code().name} · – · –")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
