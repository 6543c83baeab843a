"""llama.cpp's server behind three of our providers: it speaks all three APIs, and is none of ours.

The model is tiny, so what it says does not matter, but that text, streams, tools, schemas, usage,
limits, errors and cancellation come through as they should.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import penstock
import pytest
from penstock import v1
from penstock_server.providers.anthropic.provider import AnthropicProvider
from penstock_server.providers.http_provider import HttpProvider
from penstock_server.providers.openai.chat_provider import ChatProvider, bearer
from penstock_server.providers.openai.responses_provider import ResponsesProvider
from penstock_server.providers.transport.credentials import Fixed

from tests.support import scripted
from tests.support.flavours import FLAVOURS, LoopThread
from tests.support.processes import eventually

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "word": {"enum": ["yes", "no"]}},
    "required": ["n", "word"],
    "additionalProperties": False,
}
WEATHER = v1.Tool(
    name="weather",
    description="The weather in a city.",
    parameters='{"type":"object","properties":{"city":{"type":"string","maxLength":8}},'
    '"required":["city"]}',
)


def providers(url: str, suffix: str = "") -> list[HttpProvider]:
    headers = {"anthropic-version": "2023-06-01"}
    chat, responses, messages = (f"{name}{suffix}" for name in ("chat", "responses", "messages"))
    return [
        ChatProvider(chat, bearer(chat, f"{url}/v1"), kind="llamacpp"),
        ResponsesProvider(responses, bearer(responses, f"{url}/v1"), kind="llamacpp"),
        AnthropicProvider(messages, Fixed(messages, url, headers)),
    ]


@pytest.fixture(scope="module")
def clients(llama_server: str, llama_server_with_tools: str) -> Iterator[dict[str, Any]]:
    loop = LoopThread()
    made = providers(llama_server) + providers(llama_server_with_tools, "-tools")
    for provider in made:
        provider._local = False
    running = scripted.serving(*made)

    async def start() -> str:
        server, _ = await running.__aenter__()
        return server.addresses[0]

    address = loop.run(start())
    both = {name: make(address) for name, make in FLAVOURS.items()}
    yield both
    for client in both.values():
        client.close()

    async def stop() -> None:
        await running.__aexit__(None, None, None)

    loop.run(stop())
    loop.close()


@pytest.fixture(params=["sync", "aio"])
def client(request: pytest.FixtureRequest, clients: dict[str, Any]) -> Any:
    return clients[request.param]


each = pytest.mark.parametrize("api", ["chat", "responses", "messages"])


@each
def test_text_whole_and_streamed(client: Any, api: str) -> None:
    question = "What is the capital of Japan?"
    asked = {"model": f"{api}/tiny", "temperature": 0, "max_output_tokens": 30}
    whole = client.generate(question, **asked)
    stream = client.stream(question, **asked)
    text = "".join(stream.text())
    assert text == penstock.text_of(whole)
    assert "Tokyo" in text
    assert whole.usage.input_tokens == stream.response.usage.input_tokens > 0
    assert whole.usage.output_tokens == stream.response.usage.output_tokens > 0
    assert whole.finish_reason == stream.response.finish_reason == v1.FINISH_REASON_STOP
    assert whole.id
    assert stream.response.id


@each
def test_a_limit(client: Any, api: str) -> None:
    asked = {"model": f"{api}/tiny", "temperature": 0, "max_output_tokens": 3}
    for answer in (
        client.generate("Tell me a story.", **asked),
        _last(client.stream("Tell me a story.", **asked)),
    ):
        assert answer.usage.output_tokens == 3
        if api != "responses":  # there it says "completed" whatever happened
            assert answer.finish_reason == v1.FINISH_REASON_MAX_OUTPUT_TOKENS


# Its Responses API passes over text.format.
@pytest.mark.parametrize("api", ["chat", "messages"])
def test_a_schema_is_kept_to(client: Any, api: str) -> None:
    asked = {"response_format": SCHEMA, "max_output_tokens": 1000, "temperature": 0}
    # Its Messages API knows no output_config, but holds tools to their schema: as older models.
    asked["model"] = "chat/tiny" if api == "chat" else "messages-tools/claude-3-haiku"
    for answer in (
        client.generate("Give me a number.", **asked),
        _last(client.stream("Give me a number.", **asked)),
    ):
        jsonschema.validate(json.loads(penstock.text_of(answer)), SCHEMA)
        assert answer.finish_reason == v1.FINISH_REASON_STOP


@each
def test_a_tool_that_has_to_be_called(client: Any, api: str) -> None:
    model = f"{api}-tools/tiny"
    asked = {"model": model, "tools": [WEATHER], "tool_choice": "required", "temperature": 0}
    asked["max_output_tokens"] = 500
    for answer in (
        client.generate("Weather in Rome?", **asked),
        _last(client.stream("Weather in Rome?", **asked)),
    ):
        (call,) = [p.tool_call for p in answer.message.parts if p.HasField("tool_call")]
        assert call.name == "weather"
        assert call.id
        assert set(json.loads(call.arguments)) == {"city"}
        assert answer.finish_reason == v1.FINISH_REASON_TOOL_CALLS
        result = v1.ToolResult(tool_call_id=call.id, parts=[v1.Part(text="Sunny.")])
        conversation = [
            penstock.messages.user("Weather in Rome?"),
            answer.message,
            v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=result)]),
        ]
        then = client.generate(conversation, model=f"{api}/tiny", max_output_tokens=10)
        assert then.usage.output_tokens > 0


@each
def test_what_does_not_fit(client: Any, api: str) -> None:
    with pytest.raises(penstock.ContextLengthError) as caught:
        client.generate("word " * 5000, model=f"{api}/tiny")
    assert caught.value.metadata["upstream_status"] == "400"


@each
def test_a_caller_who_goes_frees_the_slot(
    client: Any, api: str, llama_server: str, report: Callable[[str], None]
) -> None:
    stream = client.stream(
        "Tell me a story.", model=f"{api}/tiny", max_output_tokens=1900,
        provider_options={"ignore_eos": True},
    )  # fmt: skip
    for event in stream:
        if event.HasField("part_delta"):
            break
    assert _busy(llama_server) == 1
    stream.cancel()
    report(f"{api}: free after {eventually(lambda: _busy(llama_server) == 0, 5) * 1000:.0f} ms")


def test_models(client: Any) -> None:
    listed = client.list_models("chat")
    (model,) = listed.models
    assert model.context_length == 2048


def _last(stream: Any) -> v1.GenerateResponse:
    for _ in stream:
        pass
    response: v1.GenerateResponse = stream.response
    return response


def _busy(url: str) -> int:
    with urllib.request.urlopen(f"{url}/slots", timeout=5) as response:
        return sum(slot["is_processing"] for slot in json.load(response))
