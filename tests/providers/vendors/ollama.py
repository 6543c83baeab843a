"""Ollama's own API.

Formats: docs.ollama.com, "Generate a chat message", "Errors". What is sent here is also read by the
types of Ollama's own Python client: see ``test_ollama.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from penstock import v1
from penstock_server.providers.ollama.provider import OllamaProvider
from penstock_server.providers.transport.credentials import Fixed

from tests.providers.cases import BadAnswer, Case, Vendor

WORDS = "Grüße aus 東京 🎉, wie geht's?"
SCHEMA = '{"type":"object","properties":{"n":{"type":"integer","maximum":9007199254740993}}}'
END: dict[str, Any] = {
    "done": True,
    "total_duration": 4883583458,
    "load_duration": 1334875,
    "prompt_eval_count": 23,
    "prompt_eval_duration": 342546000,
    "eval_count": 13,
    "eval_duration": 4535599000,
}


def line(message: Mapping[str, Any] | None = None, **fields: Any) -> bytes:
    told: dict[str, Any] = {
        "model": "m",
        "created_at": "2026-11-24T15:00:00.123456789Z",
        "done": False,
    }
    told["message"] = {"role": "assistant", "content": "", **(message or {})}
    return json.dumps({**told, **fields}, ensure_ascii=False).encode() + b"\n"


def halves(text: str) -> list[str]:
    return [text[: len(text) // 3], text[len(text) // 3 :]]


def stream(message: Mapping[str, Any], reason: str) -> bytes:
    out = b""
    for key in ("thinking", "content"):
        out += b"".join(line({key: piece}) for piece in halves(message.get(key, "")))
    for call in message.get("tool_calls", ()):
        out += line({"tool_calls": [call]})
    return out + line(done_reason=reason, **END)


def text(words: str) -> v1.Part:
    return v1.Part(text=words)


def call(call_id: str, name: str, arguments: str) -> v1.Part:
    return v1.Part(tool_call=v1.ToolCall(id=call_id, name=name, arguments=arguments))


def said(role: v1.Role.ValueType, *parts: v1.Part) -> v1.Message:
    return v1.Message(role=role, parts=parts)


def struct(data: dict[str, Any]) -> Struct:
    return ParseDict(data, Struct())


def answer(
    *parts: v1.Part,
    finish: v1.FinishReason.ValueType = v1.FINISH_REASON_STOP,
    word: str = "stop",
    **more: Any,
) -> v1.GenerateResponse:
    return v1.GenerateResponse(
        message=v1.Message(role=v1.ROLE_ASSISTANT, parts=parts),
        finish_reason=finish,
        provider_finish_reason=word,
        usage=v1.Usage(input_tokens=23, output_tokens=13),
        **more,
    )


def case(
    feature: str,
    name: str,
    message: Mapping[str, Any],
    expected: v1.GenerateResponse,
    request: v1.GenerateRequest | None = None,
    asked: Mapping[str, Any] | None = None,
    reason: str = "stop",
) -> Case:
    return Case(
        feature,
        name,
        stream(message, reason),
        line(message, done_reason=reason, **END),
        expected,
        request or v1.GenerateRequest(prompt="Hi"),
        asked or {},
    )


def calls(*given: tuple[str, str, Any]) -> list[dict[str, Any]]:
    return [
        ({"id": call_id} if call_id else {}) | {"function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in given
    ]


def formatted(json_object: bool) -> v1.GenerateRequest:
    request = v1.GenerateRequest(prompt="JSON.")
    if json_object:
        request.response_format.json_object.SetInParent()
    else:
        request.response_format.json_schema.schema = SCHEMA
    return request


HELLO = {"content": WORDS}
HELLO_PART = text(WORDS)
TWO = calls(("call_1", "weather", {"city": "Zürich"}), ("call_2", "weather", {"city": "東京"}))
TWO_PARTS = (
    call("call_1", "weather", '{"city": "Zürich"}'),
    call("call_2", "weather", '{"city": "東京"}'),
)
THOUGHT = v1.Part(thinking=v1.Thinking(text="Ich überlege."))

CASES: Sequence[Case] = (
    case(
        "text",
        "plain",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(prompt="Wie?", system="Kurz."),
        {
            "messages": [
                {"role": "system", "content": "Kurz."},
                {"role": "user", "content": "Wie?"},
            ]
        },
    ),
    case("text", "nothing said", {"content": ""}, answer()),
    case(
        "usage",
        "and durations",
        HELLO,
        answer(
            HELLO_PART,
            provider_metadata=struct({"total_duration": 4883583458, "load_duration": 1334875}),
        ),
    ),
    case(
        "tools",
        "no id, no arguments",
        {"tool_calls": calls(("", "now", {}))},
        answer(call("", "now", "{}"), finish=v1.FINISH_REASON_TOOL_CALLS),
        v1.GenerateRequest(prompt="When?", tools=[v1.Tool(name="now", description="The time.")]),
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "now",
                        "description": "The time.",
                        "parameters": {
                            "type": "object",
                            "properties": {},
                            "additionalProperties": False,
                        },
                    },
                }
            ]
        },
    ),
    case(
        "parallel tools",
        "two, after a word",
        {"content": "Moment.", "tool_calls": TWO},
        answer(text("Moment."), *TWO_PARTS, finish=v1.FINISH_REASON_TOOL_CALLS),
    ),
    case(
        "tool round trip",
        "results and an error",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(v1.ROLE_USER, text("Weather?")),
                said(v1.ROLE_ASSISTANT, *TWO_PARTS),
                said(
                    v1.ROLE_TOOL,
                    v1.Part(tool_result=v1.ToolResult(tool_call_id="call_1", parts=[text("Sun")])),
                    v1.Part(
                        tool_result=v1.ToolResult(
                            tool_call_id="call_2", parts=[text("none")], is_error=True
                        )
                    ),
                ),
            ]
        ),
        {
            "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": "", "tool_calls": TWO},
                {"role": "tool", "content": "Sun", "tool_name": "weather",
                 "tool_call_id": "call_1"},
                {"role": "tool", "content": "Error:\nnone", "tool_name": "weather",
                 "tool_call_id": "call_2"},
            ]
        },
    ),
    case(
        "image in",
        "bytes",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(
                    v1.ROLE_USER,
                    text("Look:"),
                    v1.Part(image=v1.Image(data=b"PNG", media_type="image/png")),
                    v1.Part(image=v1.Image(url="data:image/gif;base64,R0lG")),
                )
            ]
        ),
        {"messages": [{"role": "user", "content": "Look:", "images": ["UE5H", "R0lG"]}]},
    ),
    case(
        "JSON schema",
        "held to it",
        {"content": '{"n": 4}'},
        answer(text('{"n": 4}')),
        formatted(json_object=False),
        {"format": json.loads(SCHEMA)},
    ),
    case(
        "JSON object",
        "any",
        {"content": '{"n": 4}'},
        answer(text('{"n": 4}')),
        formatted(json_object=True),
        {"format": "json"},
    ),
    case(
        "thinking",
        "switched on",
        {"thinking": "Ich überlege.", **HELLO},
        answer(THOUGHT, HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi", thinking=v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_HIGH)
        ),
        {"think": True},
    ),
    case(
        "thinking",
        "hidden, and switched off",
        {"thinking": "Ich überlege.", **HELLO},
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi",
            thinking=v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_NONE, include=False),
        ),
        {"think": False},
    ),
    case(
        "thinking round trip",
        "thoughts go back",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[said(v1.ROLE_ASSISTANT, THOUGHT, text("Ja."))], prompt="Und?"
        ),
        {
            "messages": [
                {"role": "assistant", "content": "Ja.", "thinking": "Ich überlege."},
                {"role": "user", "content": "Und?"},
            ]
        },
    ),
    Case(
        "logprobs",
        "with alternatives",
        line({"content": "Grü"}, logprobs=[{"token": "Grü", "logprob": -0.5, "bytes": [71],
                                            "top_logprobs": [{"token": "H", "logprob": -1.5}]}])
        + line(done_reason="stop", **END),
        line({"content": "Grü"}, done_reason="stop", **END,
             logprobs=[{"token": "Grü", "logprob": -0.5, "bytes": [71],
                        "top_logprobs": [{"token": "H", "logprob": -1.5}]}]),
        answer(
            text("Grü"),
            logprobs=[
                v1.TokenLogprob(
                    token="Grü",
                    token_bytes=b"G",
                    logprob=-0.5,
                    top=[v1.TokenLogprob.Alternative(token="H", logprob=-1.5)],
                )
            ],
        ),
        v1.GenerateRequest(prompt="Hi", logprobs=v1.LogprobsOptions(top_logprobs=1)),
        {"logprobs": True, "top_logprobs": 1},
    ),
    case(
        "finish reasons",
        "length",
        HELLO,
        answer(HELLO_PART, finish=v1.FINISH_REASON_MAX_OUTPUT_TOKENS, word="length"),
        reason="length",
    ),
    case(
        "finish reasons",
        "unloaded",
        HELLO,
        answer(HELLO_PART, finish=v1.FINISH_REASON_OTHER, word="unload"),
        reason="unload",
    ),
    case(
        "sampling",
        "all that there is, and options",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi",
            sampling=v1.Sampling(
                max_output_tokens=9,
                temperature=0.5,
                top_p=0.75,
                top_k=3,
                min_p=0.25,
                seed=7,
                stop=["END"],
                presence_penalty=0.5,
                frequency_penalty=-0.5,
                repetition_penalty=1.5,
            ),
            provider_options=struct({"keep_alive": "10m", "options": {"num_ctx": 8192}}),
        ),
        {
            "keep_alive": "10m",
            "options": {
                "num_predict": 9,
                "temperature": 0.5,
                "top_p": 0.75,
                "top_k": 3,
                "min_p": 0.25,
                "seed": 7,
                "stop": ["END"],
                "presence_penalty": 0.5,
                "frequency_penalty": -0.5,
                "repeat_penalty": 1.5,
                "num_ctx": 8192,
            },
        },
    ),
)  # fmt: skip


def error(words: str) -> bytes:
    return json.dumps({"error": words}).encode()


ERRORS = (
    BadAnswer("bad request", "INVALID_REQUEST", 400, error("invalid option provided")),
    BadAnswer("no tools", "UNSUPPORTED_FEATURE", 400,
              error("registry.ollama.ai/library/m:latest does not support tools")),
    BadAnswer("no thinking", "UNSUPPORTED_FEATURE", 400, error('"m" does not support thinking')),
    BadAnswer("too long", "CONTEXT_LENGTH_EXCEEDED", 400,
              error("the input length exceeds the context length")),
    BadAnswer("model", "MODEL_NOT_FOUND", 404, error("model 'm' not found")),
    BadAnswer("older words", "MODEL_NOT_FOUND", 404,
              error("model \"m\" not found, try pulling it first")),
    BadAnswer("unauthorized", "PROVIDER_AUTHENTICATION", 401, error("unauthorized")),
    BadAnswer("busy", "PROVIDER_UNAVAILABLE", 503,
              error("server busy, please try again.  maximum pending requests exceeded")),
    BadAnswer("cloud limit", "PROVIDER_RATE_LIMITED", 429, error("too many requests")),
    BadAnswer("crash", "PROVIDER_UNAVAILABLE", 500,
              error("llama runner process has terminated: exit status 2")),
    BadAnswer("an error that says 200", "PROVIDER_UNAVAILABLE", 200, error("it broke")),
    BadAnswer("nothing", "PROVIDER_PROTOCOL", 200, b""),
    BadAnswer("a page", "PROVIDER_PROTOCOL", 200, b"<html><title>Proxy</title></html>"),
    BadAnswer("an error line", "PROVIDER_UNAVAILABLE",
              in_stream=error("an error was encountered while running the model") + b"\n"),
    BadAnswer("ends in the middle", "PROVIDER_PROTOCOL", in_stream=line({"content": "x"})),
    BadAnswer("ends in a line", "PROVIDER_PROTOCOL", in_stream=b'{"model": "m", "mess'),
    BadAnswer("no JSON", "PROVIDER_PROTOCOL", in_stream=b"oops\n"),
)  # fmt: skip


def make(name: str, url: str, **settings: Any) -> OllamaProvider:
    return OllamaProvider(name, Fixed(name, url), **settings)


VENDOR = Vendor(
    "ollama",
    make,
    tuple(CASES),
    ERRORS,
    line({"content": "Hello"}),
    stream_type="application/x-ndjson",
)
