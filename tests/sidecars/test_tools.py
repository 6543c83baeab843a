"""Tools: how models are told of them, what they were called with before, and what they call."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from jsonschema import Draft202012Validator
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local import prompt, tool_formats
from penstock_server.local.conversation import conversation
from penstock_server.local.engine import Loaded
from penstock_server.local.job import END_OF_SEQUENCE
from penstock_server.local.text import Piece, joined

from tests.sidecars import chat_templates
from tests.sidecars.writing import draw, loaded

WEATHER = v1.Tool(
    name="get_weather",
    description="The weather of a place.",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {
                "place": {"enum": ["Paris", "Tōkyō"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["place"],
            "additionalProperties": False,
        }
    ),
)
CLOCK = v1.Tool(name="clock")
AUTO, NONE = v1.ToolChoice.MODE_AUTO, v1.ToolChoice.MODE_NONE
REQUIRED, TOOL = v1.ToolChoice.MODE_REQUIRED, v1.ToolChoice.MODE_TOOL
NO_THINKING = v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_NONE)

models = pytest.mark.parametrize("model", chat_templates.MODELS)


def known(model: str) -> Loaded:
    return loaded(chat_templates.MODELS[model]())


def rendered(request: v1.GenerateRequest, model: str) -> str:
    """The prompt as the model reads it."""
    tokens = list(prompt.make_job(request, known(model)).prompt)
    return str(chat_templates.MODELS[model]().decode(tokens))


def user(text: str) -> v1.Message:
    return v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=text)])


def called(*calls: tuple[str, str, str], text: str = "") -> v1.Message:
    parts = [v1.Part(text=text)] if text else []
    parts += [
        v1.Part(tool_call=v1.ToolCall(id=call_id, name=name, arguments=arguments))
        for call_id, name, arguments in calls
    ]
    return v1.Message(role=v1.ROLE_ASSISTANT, parts=parts)


def result(call_id: str, *texts: str, is_error: bool = False) -> v1.Message:
    parts = [v1.Part(text=text) for text in texts]
    answer = v1.ToolResult(tool_call_id=call_id, parts=parts, is_error=is_error)
    return v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=answer)])


EARLIER = [
    user("Weather?"),
    called(("call-1", "get_weather", '{"place": "Paris", "days": 9007199254740993}')),
    result("call-1", "sunny", "21 °C"),
]


@pytest.mark.parametrize(
    ("model", "format_"),
    [
        ("qwen", "hermes"),
        ("hermes", "hermes"),
        ("llama", "llama3"),
        ("mistral", "mistral"),
        ("mistral_named", "mistral-named"),
        ("untaught", None),
    ],
)
def test_the_format_is_found_in_the_template(model: str, format_: str | None) -> None:
    found = known(model).abilities.template_format
    assert (found.name if found else None) == format_
    assert v1.CAPABILITY_TOOLS in known(model).abilities.capabilities


def test_a_format_that_is_not_known_is_not_taken_for_another() -> None:
    coder = "{% if tools %}<tool_call>\n<function=name>\n<parameter=x>{% endif %}"
    assert tool_formats.detect(coder) is None


@models
def test_the_model_is_told_of_tools(model: str) -> None:
    request = v1.GenerateRequest(prompt="Hi", system="Be brief.", tools=[WEATHER, CLOCK])
    text = rendered(request, model)
    for said in ("get_weather", "clock", "The weather of a place.", "place", "Hi"):
        assert said in text
    request.tool_choice.mode = NONE
    assert "get_weather" not in rendered(request, model)


@models
def test_earlier_calls_and_results(model: str) -> None:
    request = v1.GenerateRequest(messages=EARLIER, tools=[WEATHER])
    text = rendered(request, model)
    assert '"place": "Paris"' in text
    assert "9007199254740993" in text
    assert "sunny" in text
    assert "21 °C" in text


def test_how_templates_read_calls_and_results() -> None:
    taught = tool_formats.HERMES
    request = v1.GenerateRequest(
        messages=[
            user("?"),
            called(("1", "f", '{"a": 1}'), ("2", "g", "oops"), text="Let me see."),
            v1.Message(
                role=v1.ROLE_TOOL,
                parts=[
                    *result("1", "one").parts,
                    *result("2", "no such file", is_error=True).parts,
                ],
            ),
        ]
    )
    _, answer, first, second = conversation(request, taught)
    assert answer == {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {"type": "function", "id": "1", "function": {"name": "f", "arguments": {"a": 1}}},
            {"type": "function", "id": "2", "function": {"name": "g", "arguments": "oops"}},
        ],
    }
    assert first == {"role": "tool", "content": "one", "tool_call_id": "1", "name": "f"}
    assert second["content"] == "The tool failed: no such file"


def test_a_template_that_knows_no_tools_reads_them_as_text() -> None:
    _, answer, results = conversation(v1.GenerateRequest(messages=EARLIER))
    assert answer["content"].startswith('<tool_call>\n{"name": "get_weather", "arguments": {"pl')
    assert results == {
        "role": "user",
        "content": "<tool_response>\nsunny\n21 °C\n</tool_response>",
    }


def test_ids_are_as_mistrals_template_wants_them() -> None:
    taught = known("mistral").abilities.template_format
    _, answer, outcome = conversation(v1.GenerateRequest(messages=EARLIER), taught)
    short = answer["tool_calls"][0]["id"]
    assert len(short) == 9
    assert short.isalnum()
    assert outcome["tool_call_id"] == short


def test_parallel_calls_for_a_template_that_takes_one() -> None:
    request = v1.GenerateRequest(
        messages=[
            user("?"),
            called(("1", "f", '{"a": 1}'), ("2", "g", "{}"), text="Both."),
            result("2", "two"),
            result("1", "one"),
        ],
        tools=[WEATHER],
    )
    text = rendered(request, "llama")
    places = [text.index(said) for said in ('{"name": "f"', "one", '{"name": "g"', "two")]
    assert places == sorted(places)


def answer(request: v1.GenerateRequest, model: str, seed: int) -> list[Piece]:
    """What comes of drawing uniformly; empty where the answer was cut."""
    it = known(model)
    chunks = draw(prompt.make_job(request, it), it.vocabulary, seed, tokens=800)
    if chunks[-1].finish is not END_OF_SEQUENCE:
        return []
    return joined([piece for chunk in chunks for piece in chunk.parts])


def calls_of(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Names and arguments; nothing else may be there."""
    assert [piece.kind for piece in pieces] == ["call", "arguments"] * (len(pieces) // 2)
    texts = [piece.text for piece in pieces]
    return list(zip(texts[::2], texts[1::2], strict=True))


@models
@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_valid_whatever_is_drawn(model: str, seed: int) -> None:
    request = v1.GenerateRequest(
        prompt="Hi",
        tools=[WEATHER, CLOCK],
        tool_choice=v1.ToolChoice(mode=REQUIRED),
        thinking=NO_THINKING,
    )
    [(name, arguments)] = calls_of(answer(request, model, seed))
    if name == "clock":
        assert arguments == "{}"
    else:
        Draft202012Validator(json.loads(WEATHER.parameters)).validate(json.loads(arguments))


@models
def test_the_one_tool_that_must_be_called(model: str) -> None:
    for seed in range(4):
        choice = v1.ToolChoice(mode=TOOL, tool_name="clock")
        request = v1.GenerateRequest(
            prompt="Hi", tools=[WEATHER, CLOCK], tool_choice=choice, thinking=NO_THINKING
        )
        assert calls_of(answer(request, model, seed)) == [("clock", "{}")]


@models
def test_several_calls(model: str) -> None:
    choice = v1.ToolChoice(mode=REQUIRED, parallel_tool_calls=True)
    request = v1.GenerateRequest(
        prompt="Hi", tools=[CLOCK], tool_choice=choice, thinking=NO_THINKING
    )
    counts = [len(calls_of(answer(request, model, seed))) for seed in range(8)]
    assert min(counts) == 1
    assert (max(counts) > 1) == (model != "llama"), counts


@models
def test_text_is_free_and_a_call_of_a_strict_tool_is_not(model: str) -> None:
    strict = v1.Tool()
    strict.CopyFrom(WEATHER)
    strict.strict = True
    it = known(model)
    request = v1.GenerateRequest(prompt="Hi", tools=[strict], thinking=NO_THINKING)
    for beginning in ("Hello", None):
        job = prompt.make_job(request, it)
        assert job.constraint is not None
        form = it.abilities.format
        text = beginning or (form.open if not form.bare else '{"name"')
        chunks = [job.accept(token) for token in it.tokenizer.encode_part(text)]
        chunks += draw(job, it.vocabulary, 1, tokens=600)
        found = joined([piece for chunk in chunks for piece in chunk.parts])
        if beginning:
            assert found[0].kind == "text"
        else:
            assert found[0] == ("call", "get_weather")
            arguments = json.loads(found[1].text)
            Draft202012Validator(json.loads(WEATHER.parameters)).validate(arguments)


def test_a_call_or_the_json_that_was_asked_for() -> None:
    schema = json.dumps({"type": "object", "properties": {}, "additionalProperties": False})
    form = v1.ResponseFormat(json_schema=v1.JsonSchemaFormat(schema=schema))
    request = v1.GenerateRequest(
        prompt="Hi", tools=[CLOCK], response_format=form, thinking=NO_THINKING
    )
    found = {tuple(answer(request, "qwen", seed))[:1] for seed in range(12)}
    assert found == {(Piece("text", "{}"),), (Piece("call", "clock"),)}


def test_one_call_at_most() -> None:
    it = known("qwen")
    request = v1.GenerateRequest(
        prompt="Hi", tools=[CLOCK], tool_choice=v1.ToolChoice(parallel_tool_calls=False)
    )
    job = prompt.make_job(request, it)
    written = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>' * 2
    chunks = []
    for token in it.tokenizer.encode_part(written):
        chunks.append(job.accept(token))
        if chunks[-1].finish:
            break
    assert chunks[-1].finish is END_OF_SEQUENCE
    assert calls_of(joined([p for chunk in chunks for p in chunk.parts])) == [("clock", "{}")]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object", "properties": {"a": {"uniqueItems": True}}}, "UNSUPPORTED_FEATURE"),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "integer", "minimum": 2, "maximum": 1}},
                "required": ["a"],
            },
            "INVALID_REQUEST",
        ),
    ],
)
def test_arguments_that_cannot_be_held_to_their_schema(schema: object, reason: str) -> None:
    request = v1.GenerateRequest(
        prompt="Hi",
        tools=[CLOCK, v1.Tool(name="odd", parameters=json.dumps(schema))],
        tool_choice=v1.ToolChoice(mode=REQUIRED),
    )
    with pytest.raises(Failure) as caught:
        prompt.make_job(request, known("qwen"))
    failure = caught.value
    named = failure.metadata.get("feature") or failure.violations[0].field
    assert (failure.reason_name, named) == (reason, "tools[1].parameters")
    request.tools[1].strict = False
    prompt.make_job(request, known("qwen"))


def test_where_the_model_may_talk_only_strict_tools_are_held() -> None:
    odd = v1.Tool(name="odd", parameters='{"type": "object", "uniqueItems": true, "not": {}}')
    strict = v1.Tool(name="clock", strict=True)
    request = v1.GenerateRequest(prompt="Hi", tools=[odd])
    assert prompt.make_job(request, known("untaught")).constraint is None
    request.tools.append(strict)
    assert prompt.make_job(request, known("untaught")).constraint is not None


def test_a_model_without_template_calls_nothing() -> None:
    tokenizer = chat_templates.untaught()
    tokenizer.chat_template = None
    with pytest.raises(Failure) as caught:
        prompt.make_job(v1.GenerateRequest(prompt="Hi", tools=[CLOCK]), loaded(tokenizer))
    assert caught.value.metadata["feature"] == "tools"
