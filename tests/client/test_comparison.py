"""One question to several models, in both flavours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from penstock import v1

from tests.client.conftest import answer
from tests.client.faces import MakeLLM, in_thread, until

if TYPE_CHECKING:
    from tests.client.conftest import Server


async def compare(flavour: str, *args: Any, **kwargs: Any) -> penstock.Comparison:
    found: penstock.Comparison
    if flavour == "aio":
        found = await penstock.acompare(*args, **kwargs)
    else:
        found = await in_thread(penstock.compare, *args, **kwargs)
    return found


ANSWERS = {"test/a": "Yes.", "test/b": " yes. ", "test/c": "No."}


@pytest.fixture
def models(make_llm: MakeLLM, server: Server) -> list[penstock.LLM]:
    async def generate(request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        if request.model not in ANSWERS:
            await context.abort(grpc.StatusCode.INTERNAL, "broken")
        return answer(ANSWERS[request.model])

    server.generate = generate
    return [make_llm("test", name).behind for name in ("a", "b", "wrong", "c")]


async def test_answers_and_failures_in_order(
    flavour: str, models: list[penstock.LLM], server: Server
) -> None:
    found = await compare(flavour, models, "Is it?", temperature=0)

    assert [each.llm for each in found.results] == models
    texts = [each.response.content if each.response else None for each in found.results]
    assert texts == ["Yes.", " yes. ", None, "No."]
    assert [type(error) for error in found.errors] == [penstock.InternalError]
    assert len(found.responses) == 3
    assert all(call.request.sampling.HasField("temperature") for call in server.calls)


async def test_the_majority(flavour: str, models: list[penstock.LLM]) -> None:
    found = await compare(flavour, models, {"prompt": "Is it?", "seed": 1})

    assert found.majority() == ("yes.", 2 / 3)
    assert found.majority(lambda text: text.strip(" .").upper()) == ("YES", 2 / 3)
    assert found.majority(len) == (4, 1 / 3)  # of equally common ones the first


async def test_nobody_answers(flavour: str, models: list[penstock.LLM]) -> None:
    for asked in ([], [models[2]]):
        found = await compare(flavour, asked, "Is it?")
        with pytest.raises(ValueError, match="none of the models answered"):
            found.majority()


async def test_they_are_asked_at_the_same_time(
    flavour: str, models: list[penstock.LLM], server: Server
) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        await until(lambda: len(server.calls) == 4)
        return answer()

    server.generate = generate
    assert len((await compare(flavour, models, "Is it?")).responses) == 4


async def test_wrong_arguments(flavour: str, models: list[penstock.LLM], server: Server) -> None:
    with pytest.raises(TypeError, match="no such option"):
        await compare(flavour, models, "Is it?", temprature=0)
    assert server.calls == []


async def test_cancelling(models: list[penstock.LLM], server: Server) -> None:
    async def hang(request: Any, context: Any) -> v1.GenerateResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.generate = hang
    task = asyncio.create_task(penstock.acompare(models, "Is it?"))
    await until(lambda: len(server.calls) == 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.was_cut_off()
