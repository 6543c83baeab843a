"""What goes wrong with ``generate``, in both flavours, whole and in pieces: one class for each
kind of failure, deadlines that reach the server, and calls that are broken off."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from penstock import v1

from tests.client.conftest import delta
from tests.client.faces import Face, MakeLLM, Told, kinds, until

if TYPE_CHECKING:
    from tests.client.conftest import Fail, Server, Start


FAILURES: list[tuple[grpc.StatusCode, str, type[Exception]]] = [
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", penstock.InvalidRequestError),
    (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED", penstock.ContextLengthError),
    (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", penstock.ModelNotFoundError),
    (grpc.StatusCode.NOT_FOUND, "PROVIDER_NOT_FOUND", penstock.ModelNotFoundError),
    (grpc.StatusCode.FAILED_PRECONDITION, "UNSUPPORTED_FEATURE", penstock.UnsupportedFeatureError),
    (grpc.StatusCode.FAILED_PRECONDITION, "PROVIDER_AUTHENTICATION", penstock.AuthenticationError),
    (grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED", penstock.AuthenticationError),
    (grpc.StatusCode.PERMISSION_DENIED, "CALLER_FORBIDDEN", penstock.PermissionDeniedError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "PROVIDER_RATE_LIMITED", penstock.RateLimitError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "PROVIDER_QUOTA_EXHAUSTED", penstock.QuotaExhaustedError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", penstock.RateLimitError),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "PROVIDER_TIMEOUT", penstock.ProviderTimeoutError),
    (grpc.StatusCode.INTERNAL, "PROVIDER_PROTOCOL", penstock.ProviderAPIError),
    (grpc.StatusCode.INTERNAL, "", penstock.InternalError),
    (grpc.StatusCode.UNKNOWN, "", penstock.InternalError),
]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(("code", "reason", "kind"), FAILURES)
async def test_every_failure(
    llm: Face,
    server: Server,
    fail: Fail,
    told: Told,
    code: grpc.StatusCode,
    reason: str,
    kind: type[Exception],
    stream: bool,
) -> None:
    info = ErrorInfo(domain="penstock", reason=reason, metadata={"request_id": "r1"})
    wait = RetryInfo()
    wait.retry_delay.FromTimedelta(timedelta(seconds=3))

    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        await fail(context, code, "it went wrong", info, wait)
        raise AssertionError

    async def streamed(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        await fail(context, code, "it went wrong", info, wait)
        yield delta("never")

    server.generate, server.stream = generate, streamed
    with pytest.raises(penstock.PenstockError, match="it went wrong") as caught:
        if stream:
            async for _ in await llm.generate("Hi", stream=True):
                pytest.fail("nothing comes")
        else:
            await llm.generate("Hi")

    assert type(caught.value) is kind
    assert caught.value.retry_delay == 3
    assert caught.value.request_id == "r1"
    await until(lambda: "error" in kinds(told))
    assert sorted(kinds(told)) == ["error", "generation_completed", "generation_started"]
    over = next(event for event in told if event.type == "generation_completed")
    assert over.data["success"] is False
    assert "it went wrong" in over.data["error"]
    assert over.data["stream"] is stream


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_no_server(make_llm: MakeLLM, stream: bool) -> None:
    llm = make_llm(target="127.0.0.1:1")
    with pytest.raises(penstock.ServiceUnavailableError, match="is a server running at"):
        async for _ in await llm.generate("Hi", stream=True) if stream else failing(llm):
            pass


async def failing(llm: Face) -> AsyncIterator[None]:
    await llm.generate("Hi")
    yield


# --- time, and cancelling ---------------------------------------------------------------------


async def for_ever(request: Any, context: Any) -> v1.GenerateResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def begins_for_ever(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
    yield delta("Hello ")
    await asyncio.Event().wait()


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_timeouts(make_llm: MakeLLM, server: Server, stream: bool) -> None:
    server.generate, server.stream = for_ever, begins_for_ever
    llm = make_llm(timeout=9)
    with pytest.raises(penstock.DeadlineExceededError):
        async for _ in await llm.generate("Hi", stream=True, timeout=0.2) if stream else one(llm):
            pass

    remaining = server.calls[0].time_remaining
    assert remaining is not None
    assert 0 < remaining < 0.3
    await server.was_cut_off()


async def one(llm: Face) -> AsyncIterator[None]:
    await llm.generate("Hi", timeout=0.2)
    yield


async def test_timeouts_by_default(make_llm: MakeLLM, server: Server) -> None:
    await make_llm(timeout=9).generate("Hi")
    await make_llm(timeout=9).generate("Hi", timeout=None)
    await make_llm(timeout=None).generate("Hi")
    await make_llm(timeout=0).get_capabilities()
    await make_llm(timeout=9).get_capabilities()
    await make_llm(timeout=9).embed("Hi")
    await make_llm(timeout=9).unload_model()
    await make_llm(timeout=9).load_model()

    def rounded(seconds: float | None) -> int | None:
        # gRPC's word for no deadline is one in the far future
        return None if seconds is None or seconds > 1e6 else round(seconds)

    found = [rounded(call.time_remaining) for call in server.calls]
    assert found == [9, None, None, None, 9, 9, 9, 9]


@pytest.mark.parametrize("how", ["task.cancel", "asyncio.timeout"])
async def test_cancelling_a_task(server: Server, how: str) -> None:
    server.generate = for_ever
    events: Told = []
    async with penstock.create_llm("test", "model", target=server.target) as llm:
        llm.events.on("*", events.append)
        task = asyncio.create_task(llm.agenerate("Hi"))
        await until(lambda: server.calls)
        if how == "task.cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await task
        await server.was_cut_off()
        await until(lambda: len(events) == 2)

    assert kinds(events) == ["generation_started", "generation_completed"]
    assert events[1].data["success"] is False
    assert events[1].data["error"] == "CancelledError"


INTERRUPTED = """
import os, sys
import penstock

def say(*words):  # in one piece, since several threads say something
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def told(event):
    say(event.type, event.data.get("success"), event.data.get("error"))

llm = penstock.create_llm("test", "model", target=sys.argv[1])
llm.events.on("*", told)
try:
    if sys.argv[2] == "stream":
        for chunk in llm.generate("Hi", stream=True):
            say(chunk.content)
    elif sys.argv[2] == "batch":
        llm.batch(["a", "b", "c"])
    elif sys.argv[2] == "session":
        session = penstock.BasicSession(llm)
        session.generate("Hi")
    elif sys.argv[2] == "session stream":
        session = penstock.BasicSession(llm)
        for chunk in session.generate("Hi", stream=True):
            say(chunk.content)
    elif sys.argv[2] == "as_completed":
        for _ in llm.batch(["a", "b", "c"], as_completed=True):
            pass
    else:
        llm.generate("Hi")
except KeyboardInterrupt:
    say("interrupted")
    if sys.argv[2].startswith("session"):
        say(len(session.messages))
    sys.stdin.read()  # until the test has seen that the call ended
"""


@pytest.mark.parametrize(
    "what", ["unary", "stream", "batch", "as_completed", "session", "session stream"]
)
async def test_keyboard_interrupt(start_python: Start, server: Server, what: str) -> None:
    server.generate, server.stream = for_ever, begins_for_ever
    process = await start_python("-W", "error", "-c", INTERRUPTED, server.target, what)
    await until(lambda: len(server.calls) == (3 if what in ("batch", "as_completed") else 1))
    if "stream" in what:
        assert process.stdout is not None
        while await process.stdout.readline() != b"Hello \n":
            pass
    process.send_signal(signal.SIGINT)
    await server.was_cut_off()  # while the process lives
    assert process.returncode is None
    out, err = await process.communicate(b"")

    assert err == b""
    lines = out.decode().splitlines()
    assert "interrupted" in lines
    if "session" in what:  # what had arrived is kept
        assert lines[-1] == ("2" if "stream" in what else "0")
    if what not in ("batch", "as_completed"):
        over = [line for line in lines if line.startswith("generation_completed")]
        # It may also come just after a chunk: then the loop over the stream is left.
        ends = ["KeyboardInterrupt", *(["broken off"] if "stream" in what else [])]
        assert over in [[f"generation_completed False {end}"] for end in ends]
    assert process.returncode == 0
