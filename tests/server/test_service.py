"""The walk through the server, on the wire: validate, route, answer, and every way to fail."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from penstock import v1
from penstock.errors import PenstockError, from_rpc_error
from penstock_server import catalog
from penstock_server.config import ServerConfig

from tests.support.scripted import WORDS, FailingProvider, ScriptedProvider, serving

Raw = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
RawStream = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]


def ask(model: str, prompt: str = "Hi") -> v1.GenerateRequest:
    return v1.GenerateRequest(model=model, prompt=prompt)


async def failure_of(call: object) -> PenstockError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call  # type: ignore[misc]
    return from_rpc_error(caught.value)


async def test_unary_and_stream_give_the_same_answer() -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        whole = await stub.Generate(ask("test/echo"))
        request = v1.StreamGenerateRequest(request=ask("test/echo"))
        events = [event async for event in stub.StreamGenerate(request)]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == [
        "started",
        "part_started",
        *["part_delta"] * 3,
        "part_finished",
        "completed",
    ]
    completed = events[-1].completed
    assert whole.message == completed.message
    assert whole.message.parts[0].text == "".join(WORDS)
    assert "".join(e.part_delta.text for e in events) == "".join(WORDS)
    assert (whole.usage, whole.finish_reason) == (completed.usage, completed.finish_reason)
    assert whole.timings.total.ToNanoseconds() > 0


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        ("test/fail", "RESOURCE_EXHAUSTED", "PROVIDER_RATE_LIMITED"),
        ("test/break", "INTERNAL", "PROVIDER_PROTOCOL"),
        ("test/short", "INTERNAL", "PROVIDER_PROTOCOL"),
        ("test/bug", "INTERNAL", "INTERNAL_ERROR"),
        ("nobody/echo", "NOT_FOUND", "PROVIDER_NOT_FOUND"),
    ],
)
async def test_failures_are_statuses_in_both_flavours(model: str, code: str, reason: str) -> None:
    async with serving(ScriptedProvider(), ScriptedProvider("other")) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        for call in (
            stub.Generate(ask(model)),
            stub.StreamGenerate(v1.StreamGenerateRequest(request=ask(model))),
        ):
            error = await failure_of(call)
            assert (error.code.name, error.reason) == (code, reason)
            assert error.request_id


async def test_a_broken_stream_hands_over_what_came_before() -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        request = v1.StreamGenerateRequest(request=ask("test/break"))
        said = ""
        with pytest.raises(grpc.aio.AioRpcError):
            async for event in v1.GenerationServiceStub(channel).StreamGenerate(request):
                assert event.WhichOneof("event") != "completed"
                said += event.part_delta.text
    assert said == WORDS[0]


async def test_retry_info_and_pushback_come_with_a_rate_limit() -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await v1.GenerationServiceStub(channel).Generate(ask("test/fail"))
    assert from_rpc_error(caught.value).retry_delay == 1.5
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1500"


async def test_a_bug_is_logged_with_its_traceback_and_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        error = await failure_of(v1.GenerationServiceStub(channel).Generate(ask("test/bug")))
    assert "a bug" not in error.message
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("prompts", [True, False])
async def test_prompts_are_logged_only_when_asked_for(
    caplog: pytest.LogCaptureFixture, prompts: bool
) -> None:
    caplog.set_level("INFO", "penstock.calls")
    settings = {"listen": ["127.0.0.1:0"], "shutdown": {"notice": 0}, "log": {"prompts": prompts}}
    config = ServerConfig.model_validate(settings)
    async with serving(ScriptedProvider(), config=config) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        await stub.Generate(ask("test/echo", "a secret"))
        streamed = v1.StreamGenerateRequest(request=ask("test/echo", "a secret"))
        assert len([event async for event in stub.StreamGenerate(streamed)]) > 3
    lines = [str(record.__dict__["fields"]) for record in caplog.records]
    assert len(lines) == 2
    for line in lines:
        assert ("a secret" in line) is prompts
        assert (WORDS[0] in line) is prompts


async def test_a_bare_name_is_enough_with_a_single_provider() -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        response = await v1.GenerationServiceStub(channel).Generate(ask("echo"))
    assert response.model == "test/echo"


async def test_the_caller_names_the_request() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (_, channel):
        call = v1.GenerationServiceStub(channel).Generate(
            ask("test/echo"), metadata=(("x-request-id", "mine-1"),), timeout=30
        )
        await call
        trailers = dict(await call.trailing_metadata())
        await v1.GenerationServiceStub(channel).Generate(
            ask("test/echo"), metadata=(("x-request-id", "no good: spaces"),)
        )
    assert trailers["penstock-request-id"] == "mine-1"
    first, second = provider.calls
    assert first.request_id == "mine-1"
    assert first.remaining() is not None
    assert 20 < (first.deadline or 0) - time.monotonic() <= 31  # gRPC rounds it up on the wire
    assert second.request_id != "no good: spaces"
    assert second.deadline is None


async def test_a_connection_is_a_caller_unless_it_names_itself(tmp_path: Path) -> None:
    provider = ScriptedProvider()
    config = ServerConfig.model_validate(
        {"listen": ["127.0.0.1:0", f"unix:{tmp_path / 'socket'}"], "shutdown": {"notice": 0}}
    )
    # Else two channels to the same address are one connection.
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with serving(provider, config=config) as (server, _):
        for address in (server.addresses[0], server.addresses[0], server.addresses[1]):
            async with grpc.aio.insecure_channel(address, options=own) as channel:
                stub = v1.GenerationServiceStub(channel)
                for name in ("", "search", "no good", "x" * 129):
                    metadata = (("x-penstock-caller", name),) if name else ()
                    await stub.Generate(ask("test/echo"), metadata=metadata)
    callers = [call.caller for call in provider.calls]
    first, second, third = callers[:4], callers[4:8], callers[8:]
    for unnamed, named, *misnamed in (first, second, third):
        assert unnamed
        assert named == "search"
        assert misnamed == [unnamed, unnamed]
    assert first[0].startswith("ipv4:127.0.0.1:")
    assert first[0] != second[0]
    assert third[0].startswith("unix:")


@pytest.mark.parametrize("how", ["cancel", "deadline", "disconnect"])
async def test_a_caller_who_goes_closes_the_provider_stream(how: str) -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (server, _channel):
        own = grpc.aio.insecure_channel(server.addresses[0])
        request = v1.StreamGenerateRequest(request=ask("test/slow"))
        call = v1.GenerationServiceStub(own).StreamGenerate(
            request, timeout=0.5 if how == "deadline" else None
        )
        await call.read()
        await provider.begun.wait()
        assert server.gate.running == 1
        if how == "cancel":
            call.cancel()
        elif how == "disconnect":
            await own.close(None)
        assert await server.gate.drained(5)
        assert provider.closed == 1
        await own.close()


async def test_a_caller_who_goes_while_nobody_reads() -> None:
    """The handler hangs in a write that flow control holds back; its provider is closed too."""
    provider = ScriptedProvider()
    async with serving(provider) as (server, channel):
        request = v1.StreamGenerateRequest(request=ask("test/many"))
        call = v1.GenerationServiceStub(channel).StreamGenerate(request)
        await call.read()
        call.cancel()
        assert await server.gate.drained(5)
    assert provider.closed == 1


async def test_listing_reports_failures_beside_results(monkeypatch: pytest.MonkeyPatch) -> None:
    # A shorter limit, so that the test of a hanging provider takes no five seconds.
    monkeypatch.setattr(catalog, "LISTING_TIMEOUT", 0.2)
    providers = [ScriptedProvider(), *(FailingProvider(how, how) for how in ("bug", "hang", "no"))]
    async with serving(*providers) as (_, channel):
        stub = v1.ModelServiceStub(channel)
        everything = await stub.ListModels(v1.ListModelsRequest())
        one = await stub.ListModels(v1.ListModelsRequest(provider="test"))
        unknown = await failure_of(stub.ListModels(v1.ListModelsRequest(provider="tset")))
    assert [model.name for model in everything.models] == ["test/echo"]
    assert [(f.provider, v1.ErrorReason.Name(f.reason)) for f in everything.failures] == [
        ("bug", "ERROR_REASON_INTERNAL_ERROR"),
        ("hang", "ERROR_REASON_PROVIDER_TIMEOUT"),
        ("no", "ERROR_REASON_PROVIDER_UNAVAILABLE"),
    ]
    assert everything.failures[2].retry_delay.seconds == 2
    assert not one.failures
    assert unknown.reason == "PROVIDER_NOT_FOUND"
    assert "did you mean 'test'" in unknown.message


async def test_what_no_provider_serves_is_refused_by_name() -> None:
    async with serving(ScriptedProvider()) as (_, channel):
        models = v1.ModelServiceStub(channel)
        loaded = [s async for s in models.LoadModel(v1.LoadModelRequest(model="test/echo"))]
        pulled = [s async for s in models.PullModel(v1.PullModelRequest(model="test/echo"))]
        got = await models.GetModel(v1.GetModelRequest(model="test/echo"))
        missing = await failure_of(models.GetModel(v1.GetModelRequest(model="test/none")))
        empty = await failure_of(models.GetModel(v1.GetModelRequest()))
        unload = await failure_of(models.UnloadModel(v1.UnloadModelRequest(model="test/echo")))
        embed = await failure_of(
            v1.EmbeddingServiceStub(channel).Embed(v1.EmbedRequest(model="test/e", inputs=["a"]))
        )
    assert loaded[-1].progress == 1.0
    assert [step.completed_bytes for step in pulled] == [50, 100]
    assert got.model.name == "test/echo"
    assert missing.reason == "MODEL_NOT_FOUND"
    assert empty.field_violations[0].field == "model"
    assert (unload.reason, unload.metadata["feature"]) == ("UNSUPPORTED_FEATURE", "UnloadModel")
    assert (embed.reason, embed.metadata["feature"]) == ("UNSUPPORTED_FEATURE", "Embed")


async def test_messages_too_large_are_refused_with_a_reason() -> None:
    config = ServerConfig.model_validate(
        {"listen": ["127.0.0.1:0"], "limits": {"max_message_bytes": 1_000_000}}
        | {"shutdown": {"notice": 0}}
    )
    async with serving(ScriptedProvider(), config=config) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        fits = await stub.Generate(ask("test/echo", "x" * 999_000))
        error = await failure_of(stub.Generate(ask("test/echo", "x" * 1_000_000)))
        cores = await failure_of(stub.Generate(ask("test/echo", "x" * 2_000_000)))
    assert fits.message.parts
    assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    assert error.metadata["limit"] == "1000000"
    assert cores.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_bytes_that_are_no_message_name_the_field() -> None:
    raw = ask("test/echo", "PLACEHOLDER").SerializeToString().replace(b"PLACEHOLDER", b"\xff" * 11)
    async with serving(ScriptedProvider()) as (_, channel):
        generate: Raw = channel.unary_unary("/penstock.v1.GenerationService/Generate")
        stream: RawStream = channel.unary_stream("/penstock.v1.GenerationService/StreamGenerate")
        bad_text = await failure_of(generate(raw))
        nested = await failure_of(stream(b"\x0a" + bytes([len(raw)]) + raw))
        garbage = await failure_of(generate(b"\x07\x07\x07"))
        nothing: Raw = channel.unary_unary("/penstock.v1.GenerationService/No")
        missing = await failure_of(nothing(b""))
    assert (bad_text.reason, bad_text.field_violations[0].field) == ("INVALID_REQUEST", "prompt")
    assert nested.field_violations[0].field == "request.prompt"
    assert garbage.reason == "INVALID_REQUEST"
    assert missing.code is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_beside_bad_ones_are_not_harmed() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        running = stub.StreamGenerate(v1.StreamGenerateRequest(request=ask("test/slow")))
        events = aiter(running)
        await anext(events)
        bad = [failure_of(stub.Generate(ask("test/bug" if n % 2 else ""))) for n in range(20)]
        await asyncio.gather(*bad)
        provider.resume.set()
        last = [event async for event in events][-1]
    assert last.completed.message.parts[0].text == "".join(WORDS)
