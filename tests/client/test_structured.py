"""``response_model=`` in both flavours: an instance, or an error that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from penstock import v1
from pydantic import BaseModel, Field

from tests.client.conftest import answer
from tests.client.faces import Face, Told, kinds, until

if TYPE_CHECKING:
    from tests.client.conftest import Fail, Server


class River(BaseModel):
    name: str
    length: float = Field(gt=0, description="in kilometres")


class Country(BaseModel):
    name: str
    rivers: list[River] = []
    notes: str | None = None


class Open(BaseModel):
    by_name: dict[str, int]


RHINE = '{"name":"Rhine","length":1233}'


@pytest.fixture
def says(server: Server) -> Callable[..., None]:
    """Has the server answer with these, one after the other."""

    def script(*answers: str | v1.GenerateResponse) -> None:
        left = iter(answers)

        async def generate(request: Any, context: Any) -> v1.GenerateResponse:
            said = next(left)
            return answer(said) if isinstance(said, str) else said

        server.generate = generate

    return script


def last(texts: Iterable[v1.Message]) -> str:
    return penstock.text_of(list(texts)[-1])


async def test_an_instance(llm: Face, server: Server, says: Any) -> None:
    says(RHINE)

    river = await llm.generate("Name a river.", response_model=River, temperature=0)

    assert river == River(name="Rhine", length=1233)
    [call] = server.calls
    form = call.request.response_format.json_schema
    assert form.name == "River"
    assert not form.HasField("strict")  # so it is held to it
    assert json.loads(form.schema)["properties"]["length"]["exclusiveMinimum"] == 0
    assert call.request.sampling.HasField("temperature")
    assert len(call.request.messages) == 1


async def test_nested_models(llm: Face, server: Server, says: Any) -> None:
    says(f'{{"name":"Germany","rivers":[{RHINE}],"notes":null}}')

    country = await llm.generate("Go on.", response_model=Country)

    assert country == Country(name="Germany", rivers=[River(name="Rhine", length=1233)])
    schema = json.loads(server.calls[0].request.response_format.json_schema.schema)
    for each in (schema, schema["$defs"]["River"]):  # as strict providers want it
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])


async def test_a_schema_that_no_provider_holds_strictly(
    llm: Face, server: Server, says: Any
) -> None:
    says('{"by_name":{"a":1}}')

    assert await llm.generate("Go on.", response_model=Open) == Open(by_name={"a": 1})
    assert server.calls[0].request.response_format.json_schema.strict is False
    assert server.calls[0].request.response_format.json_schema.HasField("strict")


async def test_a_fence_around_it(llm: Face, says: Any) -> None:
    says(f"```json\n{RHINE}\n```")

    assert (await llm.generate("Go on.", response_model=River)).name == "Rhine"


def refusing(server: Server, fail: Fail, **by_form: tuple[str, str]) -> None:
    """Has the server refuse forms: by their name, with a reason and a feature."""

    async def generate(request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        form = request.response_format.WhichOneof("format") or "none"
        if form in by_form:
            reason, feature = by_form[form]
            code = grpc.StatusCode.FAILED_PRECONDITION
            if reason == "INVALID_REQUEST":
                code = grpc.StatusCode.INVALID_ARGUMENT
            metadata = {"feature": feature} if feature else {}
            info = ErrorInfo(domain="penstock", reason=reason, metadata=metadata)
            await fail(context, code, "Invalid schema for response_format 'River'", info)
        return answer(RHINE)

    server.generate = generate


UNSUPPORTED = ("UNSUPPORTED_FEATURE", "response_format.json_schema")


async def test_a_model_that_cannot_be_held_to_a_schema(
    llm: Face, server: Server, fail: Fail
) -> None:
    refusing(server, fail, json_schema=UNSUPPORTED, json_object=("UNSUPPORTED_FEATURE", ""))

    for _ in range(2):
        assert (await llm.generate("Go on.", response_model=River)).name == "Rhine"

    forms = [call.request.response_format.WhichOneof("format") for call in server.calls]
    assert forms == ["json_schema", "json_object", None, None]  # the second time it is known
    for call, told in zip(server.calls, (1, 2, 2, 2), strict=True):
        assert len(call.request.messages) == told
    assert '"exclusiveMinimum": 0' in last(server.calls[3].request.messages)


async def test_a_provider_that_refuses_the_schema(llm: Face, server: Server, fail: Fail) -> None:
    refusing(server, fail, json_schema=("INVALID_REQUEST", ""))

    assert (await llm.generate("Go on.", response_model=River)).name == "Rhine"
    assert len(server.calls) == 2


async def test_other_refusals_are_raised_at_once(llm: Face, server: Server, fail: Fail) -> None:
    refusing(server, fail, json_schema=("UNSUPPORTED_FEATURE", "sampling.seed"))

    with pytest.raises(penstock.UnsupportedFeatureError):
        await llm.generate("Go on.", response_model=River)
    assert len(server.calls) == 1


async def test_corrections(llm: Face, server: Server, told: Told, says: Any) -> None:
    says("A river? The Rhine!", '{"name":"Rhine","length":-1}', RHINE)

    river = await llm.generate("Name a river.", response_model=River)
    await until(lambda: kinds(told).count("generation_completed") == 3)

    assert river.length == 1233
    roles = [message.role for message in server.calls[2].request.messages]
    assert roles == [v1.ROLE_USER, *(v1.ROLE_ASSISTANT, v1.ROLE_USER) * 2]
    assert "length: Input should be greater than 0" in last(server.calls[2].request.messages)
    assert kinds(told).count("validation_failed") == 2
    retries = [event.data for event in told if event.type == "retry_attempted"]
    assert [retry["current_attempt"] for retry in retries] == [2, 3]
    assert retries[0]["max_attempts"] == 3


class Twice:
    max_attempts = 2


@pytest.mark.parametrize(
    ("options", "attempts"),
    [({}, 3), ({"retry_strategy": 1}, 1), ({"retry_strategy": Twice()}, 2)],
)
async def test_corrections_are_bounded(
    llm: Face, server: Server, says: Any, told: Told, options: dict[str, Any], attempts: int
) -> None:
    says(*["no"] * 9)

    with pytest.raises(penstock.StructuredOutputError, match="not make a River") as caught:
        await llm.generate("Go on.", response_model=River, **options)
    await until(lambda: "retry_exhausted" in kinds(told))

    assert len(server.calls) == attempts
    assert caught.value.response.content == "no"
    assert "Invalid JSON" in caught.value.problems[0]


async def test_attempts_that_make_no_sense(llm: Face, server: Server) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await llm.generate("Go on.", response_model=River, retry_strategy=0)
    with pytest.raises(TypeError, match="retry_strategy: 'often' is no number"):
        await llm.generate("Go on.", response_model=River, retry_strategy="often")
    assert server.calls == []


def ended(
    reason: v1.FinishReason.ValueType, *parts: v1.Part, text: str = '{"na'
) -> v1.GenerateResponse:
    message = penstock.assistant(*parts, text) if text else penstock.assistant(*parts)
    return v1.GenerateResponse(message=message, finish_reason=reason)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (ended(v1.FINISH_REASON_MAX_OUTPUT_TOKENS), "cut off.*more max_output_tokens"),
        (ended(v1.FINISH_REASON_REFUSAL, v1.Part(refusal="No."), text=""), "declined to answer"),
        (ended(v1.FINISH_REASON_CONTENT_FILTER), "filter cut the answer"),
        (
            ended(v1.FINISH_REASON_TOOL_CALLS, penstock.tool_call("c", "now", "{}"), text=""),
            r"wants tools called first \(now\)",
        ),
    ],
)
async def test_what_asking_again_would_not_mend(
    llm: Face, server: Server, says: Any, said: v1.GenerateResponse, message: str
) -> None:
    says(said)

    with pytest.raises(penstock.StructuredOutputError, match=message):
        await llm.generate("Go on.", response_model=River)
    assert len(server.calls) == 1


async def test_whole_although_it_was_cut_off(llm: Face, says: Any) -> None:
    says(ended(v1.FINISH_REASON_MAX_OUTPUT_TOKENS, text=RHINE))

    assert (await llm.generate("Go on.", response_model=River)).name == "Rhine"


async def test_an_answer_without_anything(llm: Face, server: Server, says: Any) -> None:
    says(v1.GenerateResponse(message=v1.Message(role=v1.ROLE_ASSISTANT)), RHINE)

    assert (await llm.generate("Go on.", response_model=River)).name == "Rhine"
    assert all(message.parts for message in server.calls[1].request.messages)


async def test_a_failed_call(llm: Face, server: Server, fail: Fail) -> None:
    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        await fail(context, grpc.StatusCode.INTERNAL, "broken")
        raise AssertionError

    server.generate = generate
    with pytest.raises(penstock.InternalError):
        await llm.generate("Go on.", response_model=River)
    assert len(server.calls) == 1
