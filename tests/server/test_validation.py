"""Every wrong field is named, all at once; what is right passes."""

from __future__ import annotations

import json
import string
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import quote

import pytest
from google.protobuf import json_format
from penstock import v1
from penstock_server import validation
from penstock_server.errors import MAX_TEXT, Failure, Violation, to_status

HI = {"model": "p/m", "prompt": "Hi"}
PNG = {"data": "iVBORw0=", "media_type": "image/png"}
CALL = {
    "role": "ROLE_ASSISTANT",
    "parts": [{"tool_call": {"id": "1", "name": "f", "arguments": "{}"}}],
}


def fields(violations: Iterable[Violation]) -> list[str]:
    return [violation.field for violation in violations]


def user(*parts: object) -> dict[str, object]:
    return {"role": "ROLE_USER", "parts": list(parts)}


WRONG: list[tuple[dict[str, object], list[str]]] = [
    ({}, ["model", "prompt"]),
    ({"model": "m" * 513, "prompt": "Hi"}, ["model"]),
    ({"model": "p/m", "messages": [{"parts": [{"text": "Hi"}]}]}, ["messages[0].role"]),
    ({"model": "p/m", "messages": [{"role": 99, "parts": [{"text": "a"}]}]}, ["messages[0].role"]),
    ({"model": "p/m", "messages": [user()]}, ["messages[0].parts"]),
    ({"model": "p/m", "messages": [user({})]}, ["messages[0].parts[0]"]),
    (
        {"model": "p/m", "messages": [{"name": "n" * 65, **user({"text": "a"})}]},
        ["messages[0].name"],
    ),
    (
        {"model": "p/m", "messages": [user({"tool_call": {"id": "1"}})]},
        [
            "messages[0].parts[0].tool_call",
            "messages[0].parts[0].tool_call.name",
            "messages[0].parts[0].tool_call.arguments",
        ],
    ),
    ({"model": "p/m", "messages": [CALL, CALL]}, ["messages[1].parts[0].tool_call.id"]),
    (
        {
            "model": "p/m",
            "messages": [
                {"role": "ROLE_TOOL", "parts": [{"tool_result": {"tool_call_id": "9"}}]},
                CALL,
                {
                    "role": "ROLE_TOOL",
                    "parts": [
                        {"tool_result": {"tool_call_id": "1", "parts": [{"audio": {}}]}},
                        {"tool_result": {}},
                    ],
                },
            ],
        },
        [
            "messages[0].parts[0].tool_result.tool_call_id",
            "messages[2].parts[0].tool_result.parts[0].audio",
            "messages[2].parts[0].tool_result.parts[0].audio.data",
            "messages[2].parts[0].tool_result.parts[0].audio.media_type",
            "messages[2].parts[1].tool_result.tool_call_id",
        ],
    ),
    (
        {
            "model": "p/m",
            "messages": [
                user(
                    {"image": {"data": "iVBORw0="}},
                    {"image": {"url": "file:///etc/passwd"}},
                    {"image": {"detail": 9, **PNG}},
                    {"document": {"file_id": ""}},
                    {"document": {"url": "no url"}},
                    {"document": {"media_type": "pdf"}},
                )
            ],
        },
        [
            "messages[0].parts[0].image.media_type",
            "messages[0].parts[1].image.url",
            "messages[0].parts[2].image.detail",
            "messages[0].parts[3].document.file_id",
            "messages[0].parts[4].document.url",
            "messages[0].parts[5].document.data",
            "messages[0].parts[5].document.media_type",
        ],
    ),
    (
        {
            **HI,
            "tools": [
                {"name": "no spaces"},
                {"name": "f", "parameters": "{"},
                {"name": "f", "parameters": '{"type": "objct"}'},
                {"name": "g", "parameters": "[]"},
            ],
        },
        [
            "tools[0].name",
            "tools[1].parameters",
            "tools[2].name",
            "tools[2].parameters",
            "tools[3].parameters",
        ],
    ),
    ({**HI, "tool_choice": {"mode": "MODE_REQUIRED"}}, ["tool_choice.mode"]),
    ({**HI, "tool_choice": {"mode": "MODE_TOOL", "tool_name": "f"}}, ["tool_choice.tool_name"]),
    ({**HI, "tool_choice": {"tool_name": "f"}}, ["tool_choice.tool_name"]),
    ({**HI, "tool_choice": {"mode": 9}}, ["tool_choice.mode"]),
    ({**HI, "response_format": {"json_schema": {}}}, ["response_format.json_schema.schema"]),
    (
        {**HI, "response_format": {"json_schema": {"name": "a b", "schema": '{"minimum": "x"}'}}},
        ["response_format.json_schema.name", "response_format.json_schema.schema"],
    ),
    (
        {**HI, "response_format": {"json_schema": {"schema": "[" * 100_000}}},
        ["response_format.json_schema.schema"],
    ),
    (
        {
            **HI,
            "sampling": {
                "max_output_tokens": 0,
                "temperature": 9,
                "top_p": 0,
                "top_k": 0,
                "min_p": 1.5,
                "seed": -1,
                "presence_penalty": -3,
                "frequency_penalty": "NaN",
                "repetition_penalty": 0,
                "stop": [""],
                "logit_bias": {"5": 101},
            },
        },
        [
            *(f"sampling.{name}" for name in validation._RANGES),
            "sampling.stop[0]",
            "sampling.logit_bias[5]",
        ],
    ),
    ({**HI, "tools": [{"name": "f", "parameters": " " * 1_048_577}]}, ["tools"]),
    ({**HI, "sampling": {"stop": ["a"] * 17}}, ["sampling.stop"]),
    ({**HI, "sampling": {"temperature": "Infinity"}}, ["sampling.temperature"]),
    ({**HI, "thinking": {"effort": 77}}, ["thinking.effort"]),
    ({**HI, "thinking": {"budget_tokens": 0}}, ["thinking.budget_tokens"]),
    ({**HI, "logprobs": {"top_logprobs": 21}}, ["logprobs.top_logprobs"]),
    ({**HI, "metadata": {str(n): "" for n in range(17)}}, ["metadata"]),
    ({**HI, "metadata": {"": "a", "k": "v" * 513}}, ["metadata", "metadata['k']"]),
]


@pytest.mark.parametrize(("request_json", "wrong"), WRONG)
def test_every_wrong_field_is_named(request_json: dict[str, object], wrong: list[str]) -> None:
    request = json_format.ParseDict(request_json, v1.GenerateRequest())
    assert sorted(fields(validation.generate_request(request))) == sorted(wrong)
    prefixed = fields(validation.generate_request(request, "request."))
    assert sorted(prefixed) == sorted(f"request.{field}" for field in wrong)


def test_a_request_with_everything_passes() -> None:
    schema = json.dumps({"type": "object", "properties": {"at": {"type": "string"}}})
    request = json_format.ParseDict(
        {
            **HI,
            "system": "Be brief.",
            "messages": [
                {"role": "ROLE_SYSTEM", "parts": [{"text": "s"}]},
                user({"text": "a"}, {"image": PNG}, {"image": {"url": "data:image/png;base64,x"}}),
                {
                    "role": "ROLE_ASSISTANT",
                    "parts": [
                        {"provider_data": {"provider": "x", "data": "AA=="}},
                        {"thinking": {"text": "hm"}},
                        *CALL["parts"],
                    ],
                },
                {
                    "role": "ROLE_TOOL",
                    "parts": [{"tool_result": {"tool_call_id": "1", "parts": [{"text": "r"}]}}],
                },
            ],
            "tools": [{"name": "f", "parameters": schema}, {"name": "g"}],
            "tool_choice": {"mode": "MODE_TOOL", "tool_name": "f"},
            "response_format": {"json_schema": {"name": "r", "schema": schema}},
            "sampling": {"temperature": 0, "top_p": 1, "seed": 0, "stop": ["\n"], "min_p": 0},
            "thinking": {"effort": "EFFORT_LOW"},
            "logprobs": {"top_logprobs": 5},
            "metadata": {"team": "water"},
        },
        v1.GenerateRequest(),
    )
    assert list(validation.generate_request(request)) == []


def test_embeddings() -> None:
    assert fields(validation.embed_request(v1.EmbedRequest())) == ["model", "inputs"]
    request = v1.EmbedRequest(model="p/m", inputs=["a", ""], dimensions=0)
    assert fields(validation.embed_request(request)) == ["inputs[1]", "dimensions"]
    assert not list(validation.embed_request(v1.EmbedRequest(model="p/m", inputs=["a"])))


def test_a_providers_name() -> None:
    assert fields(validation.provider_name("p" * 513)) == ["provider"]
    assert not list(validation.provider_name(""))


@pytest.mark.parametrize("letter", ["x", "é", "水", "\U0001f469", "\0", "%", "\ud800"])
def test_even_a_thousand_wrong_fields_fit_into_the_trailers(letter: str) -> None:
    place = f"messages[{letter * 50}].parts[0].image.media_type"
    failure = Failure.invalid([Violation(place, letter * 300)] * 1000)
    status = to_status(failure, request_id="r" * 10_000, model=letter * 512)
    # gRPC allows 8 KB; the text travels twice, and what is not ASCII is percent-encoded.
    assert len(quote(status.message, safe=string.printable)) <= MAX_TEXT
    assert len(b64encode(status.SerializeToString())) + MAX_TEXT < 8_192
    assert failure.message.endswith("…")


def test_a_text_that_just_fits_is_left_alone() -> None:
    for text in ("x" * MAX_TEXT, "水" * (MAX_TEXT // 9), "100 % é"):
        assert Failure(v1.ERROR_REASON_INTERNAL_ERROR, text).message == text
