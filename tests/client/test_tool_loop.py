"""Model, tools, model, …: ``run_tools`` in both flavours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import penstock
import pytest
from penstock import v1

from tests.client.faces import Face, MakeLLM, Told, kinds, until

if TYPE_CHECKING:
    from tests.client.conftest import Server


@penstock.tool
def weather(city: str) -> dict[str, str]:
    """Tells the weather."""
    return {"city": city, "weather": "rain"}


@penstock.tool
async def clock() -> str:
    """Tells the time."""
    await asyncio.sleep(0)
    return "noon"


def fails() -> None:
    """Fails."""
    raise OSError("no network")


def wants(*calls: tuple[str, str, str]) -> v1.GenerateResponse:
    parts = [penstock.tool_call(number, name, arguments) for number, name, arguments in calls]
    return v1.GenerateResponse(
        message=penstock.assistant(*parts),
        model="test/model",
        finish_reason=v1.FINISH_REASON_TOOL_CALLS,
        usage=v1.Usage(input_tokens=10, output_tokens=5),
    )


def final(text: str = "Take an umbrella.") -> v1.GenerateResponse:
    return v1.GenerateResponse(
        message=penstock.assistant(text),
        model="test/model",
        finish_reason=v1.FINISH_REASON_STOP,
        usage=v1.Usage(input_tokens=30, output_tokens=7),
    )


@pytest.fixture
def says(server: Server) -> Callable[..., None]:
    def script(*answers: v1.GenerateResponse) -> None:
        left = iter(answers)

        async def generate(request: Any, context: Any) -> v1.GenerateResponse:
            return next(left)

        server.generate = generate

    return script


async def test_the_loop(llm: Face, server: Server, says: Any, told: Told) -> None:
    first = wants(("c1", "weather", '{"city":"Oslo"}'), ("c2", "clock", "{}"))
    says(first, wants(("c3", "weather", '{"city":"Rome"}')), final())

    response = await llm.run_tools("An umbrella?", [weather, clock], temperature=0)
    await until(lambda: kinds(told).count("tool_completed") == 3)

    assert response.content == "Take an umbrella."
    assert response.metadata["tool_rounds"] == 3
    assert [result["call_id"] for result in response.metadata["tool_results"]] == ["c1", "c2", "c3"]
    assert response.usage is not None
    assert response.usage["total_tokens"] == 37  # of the answer itself
    assert response.metadata["total_usage"]["input_tokens"] == 50
    assert response.metadata["total_usage"]["total_tokens"] == 67
    messages = [
        penstock.user("An umbrella?"),
        first.message,
        penstock.tool_result("c1", '{"city": "Oslo", "weather": "rain"}'),
        penstock.tool_result("c2", "noon"),
    ]
    assert list(server.calls[1].request.messages) == messages
    assert response.metadata["messages"][:4] == messages
    assert response.metadata["messages"][-1] == final().message
    for call in server.calls:
        assert [tool.name for tool in call.request.tools] == ["weather", "clock"]
        assert call.request.sampling.HasField("temperature")
    started = [event.data["tool_name"] for event in told if event.type == "tool_started"]
    assert sorted(started) == ["clock", "weather", "weather"]
    assert kinds(told).count("generation_completed") == 3


async def test_no_tools_wanted(llm: Face, server: Server, says: Any) -> None:
    says(final())
    response = await llm.run_tools("Hi", [weather])

    assert response.metadata["tool_rounds"] == 1
    assert response.metadata["tool_results"] == []
    assert len(server.calls) == 1


async def test_failures_are_told_to_the_model(llm: Face, server: Server, says: Any) -> None:
    says(
        wants(
            ("c1", "fails", "{}"),
            ("c2", "unknown", "{}"),
            ("c3", "weather", '{"city":'),
            ("c4", "weather", '{"town":"Oslo"}'),
        ),
        final(),
    )
    response = await llm.run_tools("Hi", [weather, fails])

    results = [m.parts[0].tool_result for m in server.calls[1].request.messages[2:]]
    assert [result.tool_call_id for result in results] == ["c1", "c2", "c3", "c4"]
    assert all(result.is_error for result in results)
    texts = [result.parts[0].text for result in results]
    assert "no network" in texts[0]
    assert "Tool unknown not found" in texts[1]
    assert "JSON" in texts[2]
    assert "city" in texts[3]
    assert all("error" in result for result in response.metadata["tool_results"])


@pytest.mark.parametrize("said", ["once for all", "for this call"])
async def test_tools_that_take_too_long(
    said: str, make_llm: MakeLLM, server: Server, says: Any
) -> None:
    once, now = (
        ({"tool_timeout": 0.05}, {}) if said == "once for all" else ({}, {"tool_timeout": 0.05})
    )
    llm = make_llm(**once)
    release = threading.Event()

    def slow() -> None:
        release.wait(20)

    async def aslow() -> None:
        await asyncio.Event().wait()

    says(wants(("c1", "slow", "{}"), ("c2", "aslow", "{}")), final())
    try:
        response = await llm.run_tools("Hi", [slow, aslow], **now)
    finally:
        release.set()

    errors = [result["error"] for result in response.metadata["tool_results"]]
    assert ["timed out" in error for error in errors] == [True, True]


async def test_the_bound(llm: Face, server: Server, says: Any) -> None:
    says(*(wants((f"c{number}", "clock", "{}")) for number in range(20)))

    with pytest.raises(penstock.ToolLoopError, match=r"after 3 rounds.*clock") as caught:
        await llm.run_tools("Hi", [clock], max_rounds=3)

    assert len(server.calls) == 3
    assert caught.value.response.tool_calls == [{"name": "clock", "arguments": {}, "call_id": "c2"}]
    roles = [message.role for message in caught.value.messages]
    assert roles == [v1.ROLE_USER, *(v1.ROLE_ASSISTANT, v1.ROLE_TOOL) * 2, v1.ROLE_ASSISTANT]
    with pytest.raises(ValueError, match="max_rounds: must be at least 1"):
        await llm.run_tools("Hi", [clock], max_rounds=0)


@pytest.mark.parametrize("choice", ["required", "clock"])
async def test_a_choice_that_would_never_end(
    llm: Face, server: Server, says: Any, choice: str
) -> None:
    says(wants(("c1", "clock", "{}")), final())
    await llm.run_tools("Hi", [clock], tool_choice=choice, parallel_tool_calls=False)

    first, second = (call.request.tool_choice for call in server.calls)
    assert first.mode in (v1.ToolChoice.MODE_REQUIRED, v1.ToolChoice.MODE_TOOL)
    assert (second.mode, second.tool_name) == (v1.ToolChoice.MODE_AUTO, "")
    assert second.HasField("parallel_tool_calls")


async def test_a_provider_that_pauses(llm: Face, server: Server, says: Any) -> None:
    pause = final("Let me think.")
    pause.finish_reason = v1.FINISH_REASON_PAUSE
    says(pause, final())
    response = await llm.run_tools("Hi", [clock])

    assert response.content == "Take an umbrella."
    assert server.calls[1].request.messages[-1] == pause.message


async def test_what_is_no_tool(llm: Face, server: Server) -> None:
    for wrong in ("clock", {"name": "clock"}, v1.Tool(name="clock")):
        with pytest.raises(TypeError, match="is no tool"):
            await llm.run_tools("Hi", [wrong])
    with pytest.raises(ValueError, match="two tools"):
        await llm.run_tools("Hi", [clock, penstock.ToolDefinition("clock")])
    assert server.calls == []


async def test_the_tools_of_the_llm(make_llm: MakeLLM, server: Server, says: Any) -> None:
    says(wants(("c1", "clock", "{}")), final())
    response = await make_llm(tools=[clock]).run_tools("Hi")

    assert response.metadata["tool_results"][0]["result"] == "noon"


async def test_messages_go_before(llm: Face, server: Server, says: Any) -> None:
    says(final())
    await llm.run_tools(
        "Hi", [clock], messages=[penstock.user("Before.")], system_prompt="Be kind."
    )

    request = server.calls[0].request
    assert [penstock.text_of(message) for message in request.messages] == ["Before.", "Hi"]
    assert request.system == "Be kind."


async def test_cancelling(server: Server, says: Any) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    says(wants(("c1", "hang", "{}")), final())
    async with penstock.create_llm("test", "model", target=server.target) as llm:
        task = asyncio.create_task(llm.arun_tools("Hi", [hang]))
        await asyncio.wait_for(begun.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 10)
    assert len(server.calls) == 1
