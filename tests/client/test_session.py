"""`BasicSession` in both flavours: what is remembered, and what is sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from penstock import v1
from pydantic import BaseModel

from tests.client.conftest import answer
from tests.client.faces import Face, MakeLLM, Told, kinds, until

if TYPE_CHECKING:
    from tests.client.conftest import Fail, Server

MakeSession = Callable[..., Face]


def said(session: Face) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in session.behind.messages]


async def echo(request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
    return answer(f"You said: {penstock.text_of(request.messages[-1])}")


async def test_two_turns_are_four_messages(
    flavour: str, llm: Face, make_session: MakeSession, server: Server
) -> None:
    server.generate = echo
    session = make_session()

    first = await session.generate("My name is Ada.")
    await session.generate("What is my name?")

    assert first.content == "You said: My name is Ada."
    assert said(session) == [
        ("user", "My name is Ada."),
        ("assistant", "You said: My name is Ada."),
        ("user", "What is my name?"),
        ("assistant", "You said: What is my name?"),
    ]
    assert list(server.calls[1].request.messages) == [
        penstock.user("My name is Ada."),
        penstock.assistant("You said: My name is Ada."),
        penstock.user("What is my name?"),
    ]


async def test_system_prompt_tools_and_options(make_session: MakeSession, server: Server) -> None:
    @penstock.tool
    def weather(city: str) -> str:
        """Tells the weather."""
        return city

    session = make_session(
        system_prompt="Be brief.", tools=[weather], temperature=0.1, seed=4, timeout=7
    )
    session.behind.add_message("system", "And kind.")
    await session.generate("Hi")
    await session.generate("Hi", system_prompt="Be loud.", tools=[], temperature=0.9)

    first, second = server.calls
    assert first.request.system == "Be brief.\n\nAnd kind."
    assert [tool.name for tool in first.request.tools] == ["weather"]
    assert first.request.sampling == v1.Sampling(temperature=0.1, seed=4)
    assert first.time_remaining == pytest.approx(7, abs=0.5)
    assert [message.role for message in first.request.messages] == [v1.ROLE_USER]
    assert second.request.system == "Be loud."
    assert len(second.request.tools) == 0
    assert second.request.sampling.temperature == 0.9


async def test_names_and_places(make_session: MakeSession, server: Server) -> None:
    session = make_session()
    await session.generate("Hi", name="Ada", location="Oslo")
    await session.generate("Hi")
    added = session.behind.add_message("user", "It rains.", name="Bo", weather="rain")

    first, _, second, *_ = session.behind.messages
    assert (first.name, first.location) == ("Ada", "Oslo")
    assert (second.name, second.location) == ("user", None)
    assert added.metadata == {"weather": "rain", "name": "Bo"}
    assert server.calls[1].request.messages[0].name == "Ada"
    assert server.calls[1].request.messages[2].name == ""


def test_history() -> None:
    session = penstock.BasicSession(system_prompt="Be brief.")
    session.add_message("user", "Hi")
    events: Told = []
    penstock.on_global("session_cleared", events.append)

    assert session.get_history() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert session.get_history(include_system=False) == [{"role": "user", "content": "Hi"}]
    assert session.get_messages() == session.messages
    assert session.get_messages() is not session.messages
    session.clear_history()
    assert [message.role for message in session.messages] == ["system"]
    session.clear_history(keep_system=False)
    assert session.messages == []
    penstock.GlobalEventBus.off("session_cleared", events.append)
    assert [event.data["session_id"] for event in events] == [session.id] * 2


async def test_what_the_provider_has_to_see_again(
    make_session: MakeSession, server: Server
) -> None:
    thought = penstock.thinking("hm")
    thought.provider_data.CopyFrom(v1.ProviderData(provider="test", data=b"signature"))
    first = penstock.assistant(thought, "One.", penstock.tool_call("c1", "now", '{"b":1, "a":2}'))

    async def signed(request: Any, context: Any) -> v1.GenerateResponse:
        return v1.GenerateResponse(message=first, model="test/model")

    server.generate = signed
    session = make_session()
    response = await session.generate("Hi")
    session.behind.add_message("tool", "noon", tool_call_id=response.tool_calls[0]["call_id"])
    server.generate = echo
    await session.generate()  # nothing more is said: it answers to the tool's result

    assert list(server.calls[1].request.messages) == [
        penstock.user("Hi"),
        first,
        penstock.tool_result("c1", "noon"),
    ]
    assert [role for role, _ in said(session)] == ["user", "assistant", "tool", "assistant"]


async def test_media_are_seen_in_the_next_turn(make_session: MakeSession, server: Server) -> None:
    session = make_session()
    picture = b"\x89PNG\r\n\x1a\n...."
    await session.generate("Look.", name="Ada", media=[picture])
    await session.generate("What was it?")

    looked = penstock.user("Look.", penstock.image(picture), name="Ada")
    assert [call.request.messages[0] for call in server.calls] == [looked, looked]
    assert said(session)[0] == ("user", "Look.")


async def test_an_answer_without_anything(make_session: MakeSession, server: Server) -> None:
    async def nothing(request: Any, context: Any) -> v1.GenerateResponse:
        return v1.GenerateResponse(message=v1.Message(role=v1.ROLE_ASSISTANT))

    server.generate = nothing
    session = make_session()
    await session.generate("Hi")
    await session.generate("Hello?")

    assert [role for role, _ in said(session)] == ["user", "assistant"] * 2
    assert all(message.parts for message in server.calls[1].request.messages)


async def test_an_instance(make_session: MakeSession, server: Server) -> None:
    class River(BaseModel):
        name: str

    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        return answer('{"name": "Rhine"}')

    server.generate = generate
    session = make_session()

    assert await session.generate("Name a river.", response_model=River) == River(name="Rhine")
    assert said(session) == [("user", "Name a river."), ("assistant", '{"name":"Rhine"}')]
    with pytest.raises(ValueError, match="cannot come in pieces"):
        await session.generate("Name a river.", response_model=River, stream=True)
    await session.generate("Go on.")  # its turn is free
    assert len(server.calls) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_failed_call_leaves_the_history(
    make_session: MakeSession, server: Server, fail: Fail, stream: bool
) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        await fail(context, grpc.StatusCode.INTERNAL, "broken")
        raise AssertionError

    async def streamed(request: Any, context: Any) -> Any:
        await fail(context, grpc.StatusCode.INTERNAL, "broken")
        yield

    session = make_session(system_prompt="Be brief.")
    await session.generate("Hi")
    before = said(session)
    server.generate, server.stream = generate, streamed
    for _ in range(2):
        with pytest.raises(penstock.InternalError):
            async for _ in await session.generate("Hi", stream=True) if stream else one(session):
                pass
        with pytest.raises(TypeError, match="no such option"):
            await session.generate("Hi", temprature=1)
        with pytest.raises(FileNotFoundError):
            await session.generate("Hi", media=["missing.png"])

    assert said(session) == before
    server.generate = echo
    await session.generate("Still there?")
    assert len(said(session)) == len(before) + 2


async def one(session: Face) -> Any:
    await session.generate("Hi")
    yield


async def test_without_a_provider(flavour: str) -> None:
    session = Face(flavour, penstock.BasicSession())
    with pytest.raises(ValueError, match="No provider configured"):
        await session.generate("Hi")
    with pytest.raises(ValueError, match="No provider configured"):
        await session.compact()


# --- compacting -------------------------------------------------------------------------------


def talk(session: Face, turns: int = 5) -> list[tuple[str, str]]:
    for turn in range(turns):
        session.behind.add_message("user", f"question {turn}", name="Ada")
        session.behind.add_message("assistant", f"answer {turn}")
    return said(session)


async def summary(request: Any, context: Any) -> v1.GenerateResponse:
    return answer(" They talked. ")


async def test_compacting(make_session: MakeSession, server: Server, told: Told) -> None:
    server.generate = summary
    session = make_session(system_prompt="Be brief.")
    before = talk(session)

    assert await session.compact(preserve_recent=4, focus="names") is session.behind
    await until(lambda: "compaction_completed" in kinds(told))

    made = ("system", "Summary of what was said before:\nThey talked.")
    assert said(session) == [before[0], made, *before[-4:]]
    request = server.calls[0].request
    assert "Dwell on: names." in request.system
    text = penstock.text_of(request.messages[0])
    assert text.startswith("Ada: question 0\n\nassistant: answer 0\n\nAda: question 1")
    assert "question 3" not in text
    data = [event.data for event in told if event.type.startswith("compaction")]
    assert [each["messages"] for each in data] == [6, 6]
    assert data[1]["success"] is True
    assert data[1]["session_id"] == session.behind.id

    server.generate = echo
    await session.generate("Go on.")  # and the model is told the summary
    assert server.calls[1].request.system == f"Be brief.\n\n{made[1]}"
    talk(session)
    server.generate = summary
    await session.compact()
    assert "They talked." in penstock.text_of(server.calls[2].request.messages[0])
    assert [text for _, text in said(session)].count(made[1]) == 1


async def test_nothing_to_compact(make_session: MakeSession, server: Server) -> None:
    session = make_session(system_prompt="Be brief.")
    before = talk(session, 3)
    await session.compact()

    assert said(session) == before
    assert server.calls == []


def cut_off(text: str) -> v1.GenerateResponse:
    response = answer(text)
    response.finish_reason = v1.FINISH_REASON_MAX_OUTPUT_TOKENS
    return response


@pytest.mark.parametrize(
    ("result", "message"),
    [(None, "broken"), (answer("  "), "wrote no summary"), (cut_off("They"), "cut the summary")],
)
async def test_compacting_that_fails_loses_nothing(
    make_session: MakeSession, server: Server, fail: Fail, told: Told, result: Any, message: str
) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        if result is None:
            await fail(context, grpc.StatusCode.INTERNAL, "broken")
        return result  # type: ignore[no-any-return]

    server.generate = generate
    session = make_session()
    before = talk(session)
    with pytest.raises(penstock.PenstockError, match=message):
        await session.compact()
    await until(lambda: "compaction_completed" in kinds(told))

    assert said(session) == before
    over = next(event for event in told if event.type == "compaction_completed")
    assert over.data["success"] is False
    assert message in over.data["error"]


async def test_tool_results_stay_with_their_calls(
    make_session: MakeSession, server: Server
) -> None:
    server.generate = summary
    session = make_session()
    talk(session, 2)
    calls = [{"name": "now", "arguments": {}, "call_id": f"c{i}"} for i in range(2)]
    session.behind.add_message("assistant", "", tool_calls=calls)
    for call in calls:
        session.behind.add_message("tool", "noon", tool_call_id=call["call_id"])
    session.behind.add_message("assistant", "It is noon.")
    await session.compact(preserve_recent=2)  # would begin with the second result

    assert [role for role, _ in said(session)] == [
        "system",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    await session.compact(preserve_recent=0)
    assert [role for role, _ in said(session)] == ["system"]
    assert "[calls {'name': 'now'" in penstock.text_of(server.calls[1].request.messages[0])


async def test_what_is_said_while_compacting_stays(
    make_session: MakeSession, server: Server
) -> None:
    session = make_session()

    async def slow(request: Any, context: Any) -> v1.GenerateResponse:
        session.behind.add_message("user", "meanwhile")
        return answer("They talked.")

    server.generate = slow
    talk(session)
    await session.compact(preserve_recent=1)

    assert [text for _, text in said(session)][1:] == ["answer 4", "meanwhile"]


async def test_compacting_by_itself(make_session: MakeSession, server: Server, fail: Fail) -> None:
    session = make_session(auto_compact=True, auto_compact_threshold=50)
    before = talk(session)
    assert session.behind.should_compact()

    async def fails(request: Any, context: Any) -> v1.GenerateResponse:
        if "Summarise" in request.system:
            await fail(context, grpc.StatusCode.INTERNAL, "broken")
        return await echo(request, context)

    server.generate = fails
    await session.generate("Hi")  # the whole history will do
    assert said(session)[:-2] == before

    async def works(request: Any, context: Any) -> v1.GenerateResponse:
        return await (summary if "Summarise" in request.system else echo)(request, context)

    server.generate = works
    await session.generate("And now?")
    assert said(session)[0][0] == "system"
    assert len(said(session)) == 1 + 6 + 2
    session.behind.disable_auto_compact()
    talk(session)
    calls = len(server.calls)
    await session.generate("Hi")
    assert len(server.calls) == calls + 1
    session.behind.enable_auto_compact(10)
    await session.generate("Hi")
    assert len(server.calls) == calls + 3


async def test_another_model_for_the_summary(
    make_llm: MakeLLM, make_session: MakeSession, server: Server
) -> None:
    server.generate = summary
    session = make_session()
    talk(session)
    await session.compact(compact_provider=make_llm("other", "small").behind)

    assert server.calls[0].request.model == "other/small"
