"""Everything that can go wrong upstream: the reason, the words, and nothing that looks whole."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import pytest
from penstock import v1
from penstock_server.errors import STATUS, Failure, to_status
from penstock_server.providers.openai.chat_provider import ChatProvider
from penstock_server.providers.transport.errors import retry_delay

from tests.providers.asking import (
    CALL,
    deltas,
    failed,
    kinds,
    question,
    streamed,
    streamed_until_failure,
)
from tests.providers.conftest import Connect
from tests.providers.upstream import (
    Ending,
    Script,
    Upstream,
    as_json,
    as_page,
    as_stream,
    bytewise,
    chunks,
    completion,
    eventwise,
    sse,
)

KEY = "sk-very-secret-0123456789"


def error(message: str = "It broke.", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **more}}


# Status and body → reason. The bodies are what the servers named beside them send.
ERRORS: list[tuple[int, object, str]] = [
    (400, error(type="invalid_request_error"), "INVALID_REQUEST"),
    (400, error(code="context_length_exceeded"), "CONTEXT_LENGTH_EXCEEDED"),
    (400, error("prompt is too long: 9 tokens > 8 maximum"), "CONTEXT_LENGTH_EXCEEDED"),
    (
        400,  # vLLM
        {"object": "error", "message": "This model's maximum context length is 8 tokens.",
         "type": "BadRequestError", "param": None, "code": 400},
        "CONTEXT_LENGTH_EXCEEDED",
    ),
    (
        400,  # llama.cpp
        error("too large", type="exceed_context_size_error", n_ctx=8),
        "CONTEXT_LENGTH_EXCEEDED",
    ),
    (
        400,  # LM Studio
        {"error": "Trying to keep the first 9 tokens when context the overflows. However, the "
                  "model is loaded with context length of only 8 tokens."},
        "CONTEXT_LENGTH_EXCEEDED",
    ),
    (400, error(code="unsupported_parameter", param="top_p"), "UNSUPPORTED_FEATURE"),
    (400, error("Your credit balance is too low."), "PROVIDER_QUOTA_EXHAUSTED"),  # Anthropic
    (401, error("Incorrect API key", code="invalid_api_key"), "PROVIDER_AUTHENTICATION"),
    (401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid"}},
     "PROVIDER_AUTHENTICATION"),
    (402, error(), "PROVIDER_QUOTA_EXHAUSTED"),
    (403, error("Country not supported"), "PROVIDER_AUTHENTICATION"),
    (403, error("no access to model", code="model_not_found"), "MODEL_NOT_FOUND"),
    (404, error("The model `m` does not exist", code="model_not_found"), "MODEL_NOT_FOUND"),
    (
        404,  # Ollama
        error('model "m" not found, try pulling it first', type="not_found_error"),
        "MODEL_NOT_FOUND",
    ),
    (404, error("model: m", type="not_found_error"), "MODEL_NOT_FOUND"),  # Anthropic
    (404, {"detail": "Not Found"}, "PROVIDER_PROTOCOL"),  # FastAPI: a wrong path
    (404, "404 page not found", "PROVIDER_PROTOCOL"),
    (405, {"detail": "Method Not Allowed"}, "PROVIDER_PROTOCOL"),
    (408, "", "PROVIDER_TIMEOUT"),
    (413, error(type="request_too_large"), "INVALID_REQUEST"),
    (422, {"detail": [{"loc": ["body", "stop"], "msg": "wrong"}]}, "INVALID_REQUEST"),
    (429, error(code="rate_limit_exceeded"), "PROVIDER_RATE_LIMITED"),
    (429, {"error": "slow down"}, "PROVIDER_RATE_LIMITED"),
    (429, error(type="insufficient_quota", code="insufficient_quota"), "PROVIDER_QUOTA_EXHAUSTED"),
    (500, error(type="server_error"), "PROVIDER_UNAVAILABLE"),
    (500, "", "PROVIDER_UNAVAILABLE"),
    (502, "<html><head><title>502 Bad Gateway</title></head></html>", "PROVIDER_UNAVAILABLE"),
    (503, error("The engine is overloaded"), "PROVIDER_UNAVAILABLE"),
    (504, "upstream request timeout", "PROVIDER_UNAVAILABLE"),
    (529, error(type="overloaded_error"), "PROVIDER_UNAVAILABLE"),
    (302, "", "PROVIDER_PROTOCOL"),
    (418, "[1, 2]", "PROVIDER_PROTOCOL"),
]  # fmt: skip


def script(status: int, body: object, **headers: str) -> Script:
    text = body if isinstance(body, str) else json.dumps(body)
    return Script([text.encode()] if text else [], status, {"x-request-id": "req_7", **headers})


@pytest.mark.parametrize(("status", "body", "reason"), ERRORS)
async def test_error_answers(
    upstream: Upstream, provider: ChatProvider, status: int, body: object, reason: str
) -> None:
    upstream.will(script(status, body))
    failure = await failed(provider)
    assert failure.reason_name == reason
    expected = {
        "provider": "up",
        "model": "up/m",
        "upstream_status": str(status),
        "upstream_request_id": "req_7",
    }
    assert failure.metadata.items() >= expected.items()
    assert "'up'" in failure.message
    upstream.will(script(status, body))
    events, again = await streamed_until_failure(provider)
    assert events == []
    assert (again.reason_name, again.message) == (reason, failure.message)


async def test_messages_say_what_the_server_said(
    upstream: Upstream, provider: ChatProvider
) -> None:
    for body, words in (
        (error("The words."), "The words."),
        ({"error": "The words."}, "The words."),
        ({"message": "The words."}, "The words."),
        ({"detail": [{"msg": "x"}]}, '[{"msg":"x"}]'),
        ("The\n words.", "The words."),
        ("<html><title>\nTake &amp; care</title>", "Take & care"),
        ("<html><body>only this</body></html>", "HTTP status 400"),
        ("", "HTTP status 400"),
        ({"error": None}, '{"error": null}'),
    ):
        upstream.will(script(400, body))
        assert words in (await failed(provider)).message
    upstream.will(script(400, "x" * 100_000))
    assert len((await failed(provider)).message) < 700


async def test_wrong_fields_are_named_as_the_caller_knows_them(
    upstream: Upstream, provider: ChatProvider
) -> None:
    for param, field in (
        ("max_completion_tokens", "sampling.max_output_tokens"),
        ("messages[0].content", "messages"),
        ("response_format.json_schema", "response_format"),
        ("temperature", "sampling.temperature"),
    ):
        upstream.will(script(400, error("Wrong.", param=param)))
        failure = await failed(provider)
        assert [tuple(v) for v in failure.violations] == [(field, "Wrong.")]
        upstream.will(script(400, error(param=param, code="unsupported_value")))
        assert (await failed(provider)).metadata["feature"] == field
    upstream.will(script(400, error("Wrong.", param="store")))
    assert not (await failed(provider)).violations


async def test_a_redirect_is_not_followed(upstream: Upstream, provider: ChatProvider) -> None:
    upstream.will(script(308, "", location="https://elsewhere.example/"))
    failure = await failed(provider)
    assert failure.reason_name == "PROVIDER_PROTOCOL"
    assert "https://elsewhere.example/" in failure.message
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "99", "retry-after-ms": "250"}, 0.25),
        (
            {
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
            },
            30.0,
        ),
        (
            {
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
                "retry-after": "Wed, 21 Oct 2026 07:27:00 GMT",
            },
            0.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "999999999"}, 86400.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1" * 400}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
async def test_retry_after(
    upstream: Upstream,
    provider: ChatProvider,
    headers: Mapping[str, str],
    seconds: float | None,
) -> None:
    upstream.will(script(429, error(), **headers))
    failure = await failed(provider)
    assert failure.retry_delay == seconds
    assert retry_delay(headers) == seconds
    assert len(to_status(failure).details) == (1 if seconds is None else 2)


@pytest.mark.parametrize("echo", [KEY, "sk-ve****6789", f"Bearer {KEY}"])
async def test_keys_are_never_told(
    upstream: Upstream, connect: Connect, caplog: pytest.LogCaptureFixture, echo: str
) -> None:
    caplog.set_level(logging.DEBUG)
    provider = connect("openai", api_key=KEY)
    complaint = error(f"Incorrect API key provided: {echo}.", code="invalid_api_key")
    upstream.will(script(401, complaint))
    failure = await failed(provider)
    upstream.will(as_stream(sse(complaint)))
    _, in_stream = await streamed_until_failure(provider)
    assert "secret" not in caplog.text
    garbage = f"HTTP/1.1 200 {KEY}\r\nno colon {KEY}\r\n\r\n"
    upstream.will(Script(raw=garbage.encode()))
    garbled = await failed(provider)
    assert "check OPENAI_API_KEY" in failure.message
    for told in (failure, in_stream, garbled):
        assert "secret" not in f"{told.message} {told.metadata} {told!r}"
        assert "6789" not in told.message
    assert upstream.received[0].headers["authorization"] == f"Bearer {KEY}"


async def test_short_keys_do_not_eat_words(upstream: Upstream, connect: Connect) -> None:
    upstream.will(script(400, error("exactly")))
    assert "exactly" in (await failed(connect("lmstudio", api_key="x"))).message


async def test_nobody_there(connect: Connect) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        for kind, advice in (
            ("vllm", "`vllm serve MODEL`"),
            ("lmstudio", "`lms server start`"),
            ("other", "is the server running"),
        ):
            failure = await failed(connect(kind, base_url=url))
            assert failure.reason_name == "PROVIDER_UNAVAILABLE"
            assert advice in failure.message
            assert url in failure.message
            assert failure.metadata == {"provider": "up", "model": "up/m"}


async def test_no_such_host(connect: Connect) -> None:
    failure = await failed(connect(base_url="http://penstock.invalid/v1"))
    assert failure.reason_name == "PROVIDER_UNAVAILABLE"


PAGE = as_page("Welcome to nginx!")

# Answers with status 200 that are none.
NONSENSE: list[tuple[str, Script, str]] = [
    ("a page", PAGE, "Welcome to nginx!"),
    ("a page that says it is JSON", Script(PAGE.body, 200, {"content-type": "application/json"}),
     "Welcome to nginx!"),
    ("nothing", Script([], 200, {"content-type": "application/json"}), "empty answer"),
    ("spaces", Script([b" \n"], 200, {"content-type": "application/json"}), "empty answer"),
    ("half an object", Script([b'{"choices": ['], 200, {"content-type": "application/json"}), ""),
    ("not UTF-8", Script([b'{"id": "\xff"}'], 200, {"content-type": "application/json"}), ""),
    ("a list", as_json([]), ""),
    ("no choices", as_json({"id": "x"}), "without any choices"),
    ("empty choices", as_json({"id": "x", "choices": []}), "without any choices"),
    ("a wrong type", as_json(completion({"content": 7})), "$.choices[0].message.content"),
    ("impossible usage", as_json(completion({}, usage={"prompt_tokens": -1})), "usage"),
    ("huge usage", as_json(completion({}, usage={"prompt_tokens": 2**40})), "usage"),
    ("impossible bytes", as_json({"choices": [{"logprobs": {"content": [
        {"token": "x", "logprob": 0, "bytes": [256]}]}}]}), "bytes"),
    ("half a character", Script([b'{"choices":[{"message":{"content":"\\ud83d"}}]}'], 200,
     {"content-type": "application/json"}), ""),
    ("a nameless call", as_json(completion({"tool_calls": [{"id": "a"}]})), "without a name"),
    ("a deep hole", Script([b'{"error":' + b"[" * 100_000], 200,
     {"content-type": "application/json"}), ""),
    ("broken compression", Script([b"no gzip"], 200, {"content-encoding": "gzip"}), "decompress"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "words"), [row[1:] for row in NONSENSE],
                         ids=[row[0] for row in NONSENSE])  # fmt: skip
async def test_answers_that_are_none(
    upstream: Upstream, provider: ChatProvider, answer: Script, words: str
) -> None:
    for _ in range(2):
        upstream.will(answer)
    failure = await failed(provider)
    assert failure.reason_name == "PROVIDER_PROTOCOL"
    assert words in failure.message
    assert failure.metadata["upstream_status"] == "200"
    _, failure = await streamed_until_failure(provider)
    assert failure.reason_name == "PROVIDER_PROTOCOL"


TOLD = chunks([{"content": "Hel"}, {"content": "lo"}], finish=None)
HELLO = sse(*TOLD, done=False)

# What stands where the rest of the stream should be → reason and words.
BROKEN_STREAMS: list[tuple[str, bytes, str, str]] = [
    ("an error object", sse(error("It broke.")), "PROVIDER_UNAVAILABLE", "It broke."),
    ("an error text", sse({"error": "It broke."}), "PROVIDER_UNAVAILABLE", "It broke."),
    ("an error event", b'event: error\ndata: {"message": "It broke."}\n\n',
     "PROVIDER_UNAVAILABLE", "It broke."),
    ("Anthropic's", b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error",'
     b' "message": "Overloaded"}}\n\n', "PROVIDER_UNAVAILABLE", "Overloaded"),
    ("a code", sse(error(code="rate_limit_exceeded")), "PROVIDER_RATE_LIMITED", "It broke."),
    ("a status", sse(error(code=429)), "PROVIDER_RATE_LIMITED", "It broke."),
    ("a long prompt", sse(error("context length exceeded", code=400)), "CONTEXT_LENGTH_EXCEEDED",
     ""),
    ("the end", b"", "PROVIDER_PROTOCOL", "in the middle"),
    ("half an event", b'data: {"id": "x", "choi', "PROVIDER_PROTOCOL", "makes no sense"),
    ("no JSON", b"data: what?\n\n", "PROVIDER_PROTOCOL", "makes no sense"),
    ("a page", b"data: <html><title>Oops</title></html>\n\n", "PROVIDER_PROTOCOL", "Oops"),
    ("an empty event", b"data:\n\n", "PROVIDER_PROTOCOL", "empty"),
]  # fmt: skip


@pytest.mark.parametrize(("rest", "reason", "words"), [row[1:] for row in BROKEN_STREAMS],
                         ids=[row[0] for row in BROKEN_STREAMS])  # fmt: skip
async def test_streams_that_break(
    upstream: Upstream, provider: ChatProvider, rest: bytes, reason: str, words: str
) -> None:
    """The parts so far arrive, then the failure, however the bytes are cut."""
    for pieces in ([HELLO + rest], [HELLO, rest], bytewise(HELLO + rest)):
        upstream.will(as_stream(*filter(None, pieces), x_request_id="req_7"))
        events, failure = await streamed_until_failure(provider)
        assert "".join(delta.text for delta in deltas(events)) == "Hello"
        assert failure.reason_name == reason
        assert words in failure.message
        assert failure.metadata.items() >= {
            "provider": "up",
            "model": "up/m",
            "upstream_status": "200",
            "upstream_request_id": "req_7",
        }.items()  # fmt: skip


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([HELLO], id="after an event"),
        pytest.param([HELLO + b'data: {"id'], id="inside a line"),
        pytest.param([HELLO + sse(*chunks([]), done=False)], id="after the finish reason"),
    ],
)
async def test_a_connection_that_is_cut(
    upstream: Upstream, provider: ChatProvider, pieces: list[bytes]
) -> None:
    upstream.will(as_stream(*pieces, ending="cut"))
    events, failure = await streamed_until_failure(provider)
    assert "".join(delta.text for delta in deltas(events)) == "Hello"
    assert failure.reason_name == "PROVIDER_UNAVAILABLE"
    assert "cut the connection" in failure.message


async def test_other_ways_to_break_off(upstream: Upstream, provider: ChatProvider) -> None:
    short = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    for raw, reason in (
        (b"", "PROVIDER_UNAVAILABLE"),
        (b"HTTP/1.1 200 O", "PROVIDER_UNAVAILABLE"),
        (short, "PROVIDER_UNAVAILABLE"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "PROVIDER_PROTOCOL"),
    ):
        upstream.will(Script(raw=raw))
        assert (await failed(provider)).reason_name == reason


async def test_the_server_works_again(upstream: Upstream, provider: ChatProvider) -> None:
    """No failure leaves anything behind."""
    for bad in (script(500, ""), as_stream(HELLO, ending="cut"), PAGE, Script(raw=b"")):
        upstream.will(bad)
        await streamed_until_failure(provider)
        upstream.will(as_stream(sse(*chunks([{"content": "Hi"}]))))
        assert kinds(await streamed(provider))[-1] == "completed"


async def test_a_stream_without_an_answer(upstream: Upstream, provider: ChatProvider) -> None:
    for stream, words in ((sse(), "before it began"), (b"", "in the middle"), (b":", "middle")):
        upstream.will(as_stream(*filter(None, [stream])))
        events, failure = await streamed_until_failure(provider)
        assert events == []
        assert failure.reason_name == "PROVIDER_PROTOCOL"
        assert words in failure.message


async def test_too_long_answers(
    upstream: Upstream, provider: ChatProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_server.providers.transport.reply.MAX_BODY_BYTES", 1000)
    upstream.will(as_json(completion({"content": "x" * 1000})))
    failure = await failed(provider)
    assert failure.reason_name == "PROVIDER_PROTOCOL"
    assert "1000 bytes" in failure.message
    monkeypatch.setattr("penstock_server.providers.transport.sse.MAX_EVENT_BYTES", 1000)
    upstream.will(as_stream(HELLO, b"data: " + b"x" * 2000))
    _, failure = await streamed_until_failure(provider)
    assert failure.reason_name == "PROVIDER_PROTOCOL"
    assert "1000 bytes" in failure.message


async def test_silence(upstream: Upstream, connect: Connect) -> None:
    never = asyncio.Event()
    for provider, answer, seen in (
        (connect(idle_timeout=0.05), as_stream(HELLO, never), "Hello"),
        (connect(first_event_timeout=0.05), as_stream(never), ""),
        (connect(first_event_timeout=0.05), Script([never], 500), ""),
    ):
        upstream.will(answer)
        events, failure = await streamed_until_failure(provider)
        assert "".join(delta.text for delta in deltas(events)) == seen
        assert failure.reason_name == "PROVIDER_TIMEOUT"
        assert failure.metadata["model"] == "up/m"
    never.set()


async def test_the_first_byte_may_take_longer(upstream: Upstream, connect: Connect) -> None:
    provider = connect(idle_timeout=0.05)
    gate = asyncio.Event()
    upstream.will(as_stream(gate, sse(*chunks([{"content": "Hi"}])), together=True))
    asking = asyncio.ensure_future(streamed(provider))
    await asyncio.wait([asking], timeout=0.15)
    gate.set()
    assert kinds(await asking)[-1] == "completed"


async def test_comments_break_the_silence(upstream: Upstream, connect: Connect) -> None:
    provider = connect(idle_timeout=1.0)
    gates = [asyncio.Event() for _ in range(3)]
    pieces = [x for gate in gates for x in (b": still thinking\n\n", gate)]
    upstream.will(as_stream(*pieces, sse(*chunks([{"content": "Hi"}]))))
    asking = asyncio.ensure_future(streamed(provider))
    for gate in gates:
        await asyncio.wait([asking], timeout=0.35)
        gate.set()
    assert kinds(await asking)[-1] == "completed"


async def test_leaving_the_stream_closes_the_connection(
    upstream: Upstream, provider: ChatProvider
) -> None:
    upstream.will(as_stream(HELLO, ending="hold"))
    async with aclosing(provider.stream("m", question(), CALL)) as events:
        async for event in events:
            if event.HasField("part_delta"):
                break
    await upstream.hung_up()


@pytest.mark.parametrize("answer", [as_stream(HELLO, ending="hold"), as_stream(ending="hold")])
async def test_cancelling_closes_the_connection(
    upstream: Upstream, provider: ChatProvider, answer: Script
) -> None:
    """While waiting for more, and while waiting for anything."""
    upstream.will(answer)
    begun = asyncio.Event()

    async def ask() -> None:
        async with aclosing(provider.stream("m", question(), CALL)) as events:
            async for _ in events:
                begun.set()

    asking = asyncio.ensure_future(ask())
    await upstream.asked()
    if answer.body:
        await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await upstream.hung_up()


async def test_cancelling_a_whole_answer_closes_the_connection(
    upstream: Upstream, provider: ChatProvider
) -> None:
    upstream.will(Script([b"{"], 200, {"content-type": "application/json"}, "hold"))
    asking = asyncio.ensure_future(provider.generate("m", question(), CALL))
    await upstream.asked()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await upstream.hung_up()


@pytest.mark.parametrize("stream", [False, True])
async def test_no_connection_is_forgotten(
    upstream: Upstream, provider: ChatProvider, stream: bool
) -> None:
    """Whenever a call is cancelled: one that is forgotten would stay open for good."""
    told = eventwise(sse(*chunks([{"content": "Hi"}])))
    upstream.otherwise = as_stream(*told) if stream else as_json(completion({"content": "Hi"}))

    async def ask() -> None:
        await (streamed(provider) if stream else provider.generate("m", question(), CALL))

    for turns in range(80):  # of the event loop
        asking = asyncio.ensure_future(ask())
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
    await ask()
    await upstream.down_to(1)


async def test_no_connection_is_forgotten_after_failures(
    upstream: Upstream, provider: ChatProvider
) -> None:
    endings: tuple[Ending, ...] = ("clean", "cut", "hold")
    for rest in (sse(error()), b"data: what?\n\n"):
        for ending in endings:
            for together in (False, True):
                upstream.will(as_stream(HELLO, rest, ending=ending, together=together))
                await streamed_until_failure(provider)
    upstream.otherwise = as_json(completion({"content": "Hi"}))
    await provider.generate("m", question(), CALL)
    await upstream.down_to(1)


async def test_a_server_that_floods_has_to_wait(upstream: Upstream, provider: ChatProvider) -> None:
    """A consumer that does not read is not read for, beyond a limit."""
    big = sse(*chunks([{"content": "x" * 60_000}], finish=None), done=False)
    end = sse(*chunks([]))
    upstream.will(as_stream(*[big] * 100, end))
    size = 0
    async with aclosing(provider.stream("m", question(), CALL)) as events:
        async for event in events:
            if event.HasField("part_delta"):
                assert len(event.part_delta.text) < 1_000_000
                size += len(event.part_delta.text)
    assert size == 6_000_000


def test_every_reason_has_a_status() -> None:
    assert {row[2] for row in ERRORS} <= {
        v1.ErrorReason.Name(reason).removeprefix("ERROR_REASON_") for reason in STATUS
    }


async def test_a_failure_is_always_a_failure(upstream: Upstream, provider: ChatProvider) -> None:
    upstream.will(script(500, ""))
    with pytest.raises(Failure):
        await provider.list_models(CALL)
