"""What callers write, and the request it makes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from penstock import GenerateOptions, user, v1
from penstock._request import _SETTERS, embed_request, generate_request, to_json

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer", "maximum": 2**53 + 1}}}


def test_nothing_said_is_nothing_sent() -> None:
    unset: Any = dict.fromkeys(GenerateOptions.__annotations__)

    assert generate_request("Hi") == v1.GenerateRequest(prompt="Hi")
    assert generate_request("Hi", **unset) == v1.GenerateRequest(prompt="Hi")
    assert generate_request([]) == v1.GenerateRequest()


def test_every_option_is_handled() -> None:
    assert _SETTERS.keys() == GenerateOptions.__annotations__.keys()


def test_every_field_of_the_contract_can_be_said() -> None:
    """Whoever adds a field to the contract adds it here: or says why not."""
    everything = generate_request(
        "Hi",
        model="m",
        system="s",
        tools=[{"name": "t"}],
        tool_choice="t",
        parallel_tool_calls=False,
        response_format="json",
        max_output_tokens=1,
        temperature=0,
        top_p=1,
        top_k=1,
        min_p=0,
        seed=0,
        stop=".",
        presence_penalty=0,
        frequency_penalty=0,
        repetition_penalty=1,
        logit_bias={1: 0},
        thinking=1,
        include_thinking=False,
        top_logprobs=0,
        labels={"a": "b"},
        provider_options={},
    )
    said = {field.name for field, _ in everything.ListFields()}
    assert said == {field.name for field in v1.GenerateRequest.DESCRIPTOR.fields} - {"messages"}
    for name in ("sampling", "tool_choice"):
        message = getattr(everything, name)
        assert {field.name for field, _ in message.ListFields()} == set(
            message.DESCRIPTOR.fields_by_name
        )


@pytest.mark.parametrize(
    ("prompt", "request_"),
    [
        ("Hi", v1.GenerateRequest(prompt="Hi")),
        (user("Hi"), v1.GenerateRequest(messages=[user("Hi")])),
        ([user("Hi"), user("you")], v1.GenerateRequest(messages=[user("Hi"), user("you")])),
        (iter([user("Hi")]), v1.GenerateRequest(messages=[user("Hi")])),
        (v1.GenerateRequest(prompt="Hi", system="s"), v1.GenerateRequest(prompt="Hi", system="s")),
    ],
)
def test_prompts(prompt: Any, request_: v1.GenerateRequest) -> None:
    assert generate_request(prompt) == request_


def test_a_request_is_copied_and_options_replace_what_it_says() -> None:
    given = v1.GenerateRequest(
        model="a",
        prompt="Hi",
        tools=[v1.Tool(name="old")],
        sampling=v1.Sampling(temperature=1, seed=7, stop=["x"]),
        tool_choice=v1.ToolChoice(mode=v1.ToolChoice.MODE_TOOL, tool_name="old"),
        metadata={"old": "label"},
    )
    before = given.SerializeToString(deterministic=True)
    made = generate_request(
        given,
        model="b",
        temperature=0,
        stop=["y"],
        tools=[{"name": "new"}],
        tool_choice="auto",
        labels={"new": "label"},
    )

    assert given.SerializeToString(deterministic=True) == before
    assert made.model == "b"
    assert made.sampling == v1.Sampling(temperature=0, seed=7, stop=["y"])
    assert [tool.name for tool in made.tools] == ["new"]
    assert made.tool_choice == v1.ToolChoice(mode=v1.ToolChoice.MODE_AUTO)
    assert made.metadata == {"new": "label"}


@pytest.mark.parametrize(
    ("options", "json_"),
    [
        ({"temperature": 0}, {"sampling": {"temperature": 0.0}}),
        ({"stop": "\n"}, {"sampling": {"stop": ["\n"]}}),
        ({"stop": ("a", "b")}, {"sampling": {"stop": ["a", "b"]}}),
        ({"seed": 0}, {"sampling": {"seed": "0"}}),
        ({"logit_bias": {5: -100}}, {"sampling": {"logitBias": {"5": -100.0}}}),
        ({"tool_choice": "auto"}, {"toolChoice": {"mode": "MODE_AUTO"}}),
        ({"tool_choice": "none"}, {"toolChoice": {"mode": "MODE_NONE"}}),
        ({"tool_choice": "required"}, {"toolChoice": {"mode": "MODE_REQUIRED"}}),
        ({"tool_choice": "f"}, {"toolChoice": {"mode": "MODE_TOOL", "toolName": "f"}}),
        (
            {"tool_choice": v1.ToolChoice(mode=v1.ToolChoice.MODE_AUTO)},
            {"toolChoice": {"mode": "MODE_AUTO"}},
        ),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"toolChoice": {"mode": "MODE_REQUIRED", "parallelToolCalls": False}},
        ),
        ({"response_format": "text"}, {"responseFormat": {"text": {}}}),
        ({"response_format": "json"}, {"responseFormat": {"jsonObject": {}}}),
        (
            {"response_format": v1.ResponseFormat(json_schema=v1.JsonSchemaFormat(name="n"))},
            {"responseFormat": {"jsonSchema": {"name": "n"}}},
        ),
        ({"thinking": "none"}, {"thinking": {"effort": "EFFORT_NONE"}}),
        ({"thinking": "max"}, {"thinking": {"effort": "EFFORT_MAX"}}),
        ({"thinking": 100}, {"thinking": {"budgetTokens": 100}}),
        ({"thinking": v1.ThinkingOptions(include=True)}, {"thinking": {"include": True}}),
        (
            {"include_thinking": True, "thinking": "low"},
            {"thinking": {"effort": "EFFORT_LOW", "include": True}},
        ),
        ({"top_logprobs": 0}, {"logprobs": {}}),
        ({"top_logprobs": 3}, {"logprobs": {"topLogprobs": 3}}),
        ({"labels": {"a": "b"}}, {"metadata": {"a": "b"}}),
        ({"provider_options": {}}, {"providerOptions": {}}),
        (
            {"provider_options": {"a": {"b": [1, None, True]}}},
            {"providerOptions": {"a": {"b": [1.0, None, True]}}},
        ),
        ({"tools": []}, {}),
    ],
)
def test_options(options: Any, json_: dict[str, Any]) -> None:
    assert MessageToDict(generate_request("Hi", **options)) == {"prompt": "Hi", **json_}


def test_tools_may_be_messages_or_mappings() -> None:
    tool = v1.Tool(name="a", description="d", parameters='{"type": "object"}', strict=True)
    mapping = {"name": "b", "description": "d", "parameters": SCHEMA, "strict": False}
    text = {"name": "c", "parameters": '{"type": "object"}'}
    made = generate_request("Hi", tools=[tool, mapping, text]).tools

    assert made[0] == tool
    assert json.loads(made[1].parameters) == SCHEMA  # 2**53 + 1 included
    assert made[1].HasField("strict")
    assert not made[1].strict
    assert made[2].parameters == text["parameters"]  # byte for byte
    assert not made[2].HasField("strict")


def test_a_schema_is_compact_json_text() -> None:
    made = generate_request("Hi", response_format=SCHEMA).response_format.json_schema

    assert json.loads(made.schema) == SCHEMA
    assert "größe" in made.schema
    assert ": " not in made.schema


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"temprature": 1}, TypeError, "no such option: temprature"),
        ({"temperature": "hot"}, TypeError, "temperature"),
        ({"max_output_tokens": 2**40}, ValueError, "max_output_tokens"),
        ({"thinking": "hard"}, ValueError, "thinking: 'hard' is none of none, minimal"),
        ({"thinking": True}, TypeError, "thinking: one of"),
        ({"response_format": "xml"}, ValueError, "response_format: 'xml'"),
        ({"tools": [{"name": "a", "function": {}}]}, ValueError, "tools: a tool has no function"),
        ({"system": "\ud800"}, ValueError, "system"),
        ({"response_format": {"maximum": float("nan")}}, ValueError, "response_format"),
        ({"provider_options": {"a": object()}}, ValueError, "provider_options"),
    ],
)
def test_mistakes_are_named(options: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        generate_request("Hi", **options)


def test_embed_request() -> None:
    assert embed_request("a", model="m") == v1.EmbedRequest(model="m", inputs=["a"])
    made = embed_request(iter("ab"), model="m", dimensions=3, provider_options={"x": 1})
    assert list(made.inputs) == ["a", "b"]
    assert made.dimensions == 3
    assert MessageToDict(made.provider_options) == {"x": 1.0}


def test_json_text_is_left_alone() -> None:
    assert to_json('{"b": 1,  "a": 2}') == '{"b": 1,  "a": 2}'
    assert to_json({"ü": [1, None]}) == '{"ü":[1,null]}'
