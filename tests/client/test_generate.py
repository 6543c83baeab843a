"""``generate`` and ``agenerate``: what an answer tells, what is raised, what events say."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from typing import TYPE_CHECKING, Any

import penstock
import pytest
from penstock import v1

from tests.client.conftest import answer
from tests.client.faces import Face, MakeLLM, Told, until

if TYPE_CHECKING:
    from tests.client.conftest import Server


# --- what an answer tells ---------------------------------------------------------------------


def rich() -> v1.GenerateResponse:
    response = answer("Hello there.")
    response.model = "test/model-2026"
    response.message.parts.insert(0, penstock.thinking("hm"))
    response.usage.CopyFrom(v1.Usage(input_tokens=20, output_tokens=5, cached_input_tokens=8))
    response.timings.time_to_first_token.FromMilliseconds(12)
    response.timings.total.FromMilliseconds(34)
    response.stop_sequence = "."
    response.provider_finish_reason = "stop_sequence"
    return response


async def test_an_answer(llm: Face, server: Server) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        return rich()

    server.generate = generate
    response = await llm.generate("Hi")

    assert response.content == "Hello there."
    assert response.model == "model-2026"
    assert response.finish_reason == "stop"
    assert response.usage == {
        "input_tokens": 20,
        "output_tokens": 5,
        "total_tokens": 25,
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "cached_input_tokens": 8,
        "cache_write_tokens": 0,
        "thinking_tokens": 0,
    }
    assert (response.input_tokens, response.output_tokens, response.total_tokens) == (20, 5, 25)
    assert response.reasoning == "hm"
    assert response.metadata == {
        "provider": "test",
        "response_id": "answer-1",
        "provider_finish_reason": "stop_sequence",
        "stop_sequence": ".",
        "reasoning": "hm",
        "_timing": {"source": "server", "ttft_ms": 12, "total_ms": 34},
    }
    assert response.tool_calls is None
    assert not response.has_tool_calls()
    assert response.raw_response == rich()
    assert 0 < response.gen_time < 20_000
    assert (
        response.get_summary()
        == f"Model: model-2026 | Tokens: 25 | Time: {response.gen_time:.1f}ms"
    )


async def test_usage_that_is_not_known(llm: Face) -> None:
    response = await llm.generate("Hi")

    assert response.usage is response.total_tokens is None


REASONS = {
    v1.FINISH_REASON_UNSPECIFIED: None,
    v1.FINISH_REASON_STOP: "stop",
    v1.FINISH_REASON_MAX_OUTPUT_TOKENS: "length",
    v1.FINISH_REASON_CONTEXT_LENGTH: "length",
    v1.FINISH_REASON_TOOL_CALLS: "tool_calls",
    v1.FINISH_REASON_CONTENT_FILTER: "content_filter",
    v1.FINISH_REASON_REFUSAL: "refusal",
    v1.FINISH_REASON_PAUSE: "pause",
    v1.FINISH_REASON_OTHER: "other",
}


async def test_every_finish_reason(llm: Face, server: Server) -> None:
    assert REASONS.keys() == set(v1.FinishReason.values())
    for reason, expected in REASONS.items():

        async def generate(
            request: Any, context: Any, reason: v1.FinishReason.ValueType = reason
        ) -> v1.GenerateResponse:
            return v1.GenerateResponse(finish_reason=reason)

        server.generate = generate
        response = await llm.generate("Hi")
        assert response.finish_reason == expected
        assert response.output_truncated is (expected == "length")


async def test_tool_calls_and_refusals(llm: Face, server: Server) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        said = penstock.assistant(
            v1.Part(refusal="I would rather not."),
            penstock.tool_call("c1", "weather", '{"city":"Oslo","n":9007199254740993}'),
            penstock.tool_call("c2", "weather", '{"city":'),
            penstock.tool_call("c3", "weather", "[1]"),
            penstock.tool_call("c4", "now", ""),
        )
        return v1.GenerateResponse(message=said, finish_reason=v1.FINISH_REASON_TOOL_CALLS)

    server.generate = generate
    response = await llm.generate("Hi")

    assert response.content == ""
    assert response.tool_calls == [
        {"name": "weather", "arguments": {"city": "Oslo", "n": 9007199254740993}, "call_id": "c1"},
        {"name": "weather", "arguments": '{"city":', "call_id": "c2"},
        {"name": "weather", "arguments": "[1]", "call_id": "c3"},
        {"name": "now", "arguments": {}, "call_id": "c4"},
    ]
    assert response.get_tools_executed() == ["weather", "weather", "weather", "now"]
    assert response.metadata["refusal"] == "I would rather not."
    assert response.get_summary().endswith("Tools: 4 called")


# --- tools ------------------------------------------------------------------------------------


def plain(city: str) -> str:
    """Tells the weather."""
    return city


@penstock.tool(name="attached")
def decorated(city: str) -> str:
    """Tells the weather."""
    return city


async def test_tools_in_every_shape(llm: Face, server: Server) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    flat = {"name": "flat", "description": "d", "parameters": schema, "tags": ["x"]}
    nested = {"type": "function", "function": {"name": "nested", "parameters": schema}}
    proto = v1.Tool(name="proto", parameters="{}")
    defined = penstock.ToolDefinition("defined", "d")

    await llm.generate(
        "Hi", tools=[plain, decorated, flat, nested, proto, defined], tool_choice="required"
    )

    request = server.calls[0].request
    names = [tool.name for tool in request.tools]
    assert names == ["plain", "attached", "flat", "nested", "proto", "defined"]
    assert request.tools[0].description == "Tells the weather."
    assert '"city"' in request.tools[1].parameters
    assert (
        request.tools[2].parameters == '{"type":"object","properties":{"city":{"type":"string"}}}'
    )
    assert request.tool_choice.mode == v1.ToolChoice.MODE_REQUIRED


async def test_a_tool_as_abstractcore_describes_it(llm: Face, server: Server) -> None:
    arguments = {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}}
    more = {"tags": ["x"], "when_to_use": "Before going out."}
    said = {"name": "weather", "description": "Tells the weather.", "parameters": arguments}
    await llm.generate("Hi", tools=[{**said, **more}, {**said, "required_args": ["days"]}])

    one, other = server.calls[0].request.tools
    schema = {"type": "object", "properties": arguments}
    assert json.loads(one.parameters) == {**schema, "required": ["city"]}
    assert json.loads(other.parameters) == {**schema, "required": ["days"]}
    assert one.description == "Tells the weather.\n\nWhen to use: Before going out."


@pytest.mark.parametrize(
    ("described", "problem"),
    [
        ({"name": "t", "paramters": {}}, "tool 't': there is no paramters"),
        ({"name": "t", "parameters": "{"}, "tool 't': parameters: no JSON"),
        ({"name": "t", "parameters": [1]}, "tool 't': parameters: no JSON object"),
        ({"name": "t", "parameters": {"city": "string"}}, "neither a JSON Schema nor arguments"),
        ({"type": "function", "function": "t"}, "function is no description"),
        ({"description": "d"}, "tool name ''"),
    ],
)
async def test_descriptions_that_make_no_tool(
    described: dict[str, Any], problem: str, llm: Face, server: Server
) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        await llm.generate("Hi", tools=[described])
    assert not server.calls


async def test_an_llm_with_tools_of_its_own(make_llm: MakeLLM, server: Server) -> None:
    llm = make_llm(tools=[plain])
    await llm.generate("Hi")
    await llm.generate("Hi", tools=[])

    assert [len(call.request.tools) for call in server.calls] == [1, 0]


# --- events -----------------------------------------------------------------------------------


async def test_events_of_an_answer(llm: Face, server: Server, told: Told) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        return rich()

    server.generate = generate
    response = await llm.generate("H" * 200, tools=[plain])
    await until(lambda: len(told) == 2)

    started, completed = told
    assert started.type == penstock.EventType.GENERATION_STARTED
    assert started.source == "test"
    assert started.data == {
        "prompt": "H" * 100,
        "has_tools": True,
        "stream": False,
        "model": "test/model",
        "provider": "test",
    }
    assert completed.type == penstock.EventType.GENERATION_COMPLETED
    assert completed.data == {
        "prompt": "H" * 100,
        "success": True,
        "error": None,
        "response_length": 12,
        "stream": False,
        "model": "test/model",
        "provider": "test",
        "duration_ms": response.gen_time,
        "tokens_input": 20,
        "tokens_output": 5,
        "finish_reason": "stop",
    }


async def test_events_reach_the_global_bus(llm: Face) -> None:
    seen: Told = []
    penstock.on_global("generation_completed", seen.append)
    try:
        await llm.generate("Hi")
        await until(lambda: seen)
    finally:
        penstock.GlobalEventBus.off("generation_completed", seen.append)
    assert seen[0].data["success"] is True


async def test_handlers_do_no_harm(make_llm: MakeLLM, flavour: str) -> None:
    released = threading.Event()
    emitter = penstock.EventEmitter(handler_timeout=0.05)
    llm = make_llm(events=emitter)

    def hang(event: penstock.Event) -> None:
        released.wait(20)

    def fail(event: penstock.Event) -> None:
        raise SystemExit(1)

    async def afail(event: penstock.Event) -> None:
        raise RuntimeError("of the handler")

    async def ahang(event: penstock.Event) -> None:
        await asyncio.Event().wait()

    for handler in (hang, fail, afail) if flavour == "sync" else (hang, fail, afail, ahang):
        emitter.on("*", handler)
    try:
        async with asyncio.timeout(5):
            for _ in range(5):
                assert (await llm.generate("Hi")).content == "Hello there."
                chunks = [chunk.content async for chunk in await llm.generate("Hi", stream=True)]
                assert "".join(chunks) == "Hello there."
    finally:
        released.set()
