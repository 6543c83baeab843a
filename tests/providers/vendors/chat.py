"""Chat Completions: OpenAI's own, and how others speak it.

Formats: developers.openai.com, API reference, "Create chat completion" and its chunks; for the
others the documentation that ``openai/servers.py`` names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from penstock import v1
from penstock_server.providers.openai.chat_provider import ChatProvider, bearer
from penstock_server.providers.openai.clients import openai_credentials
from penstock_server.providers.openai.lmstudio import LMStudioProvider

from tests.providers.cases import BadAnswer, Case, Vendor

KEY = "sk-proj-very-secret-0123456789"
USAGE = {
    "prompt_tokens": 23,
    "completion_tokens": 13,
    "total_tokens": 36,
    "prompt_tokens_details": {"cached_tokens": 11},
    "completion_tokens_details": {"reasoning_tokens": 6},
}
WORDS = "Grüße aus 東京 🎉, wie geht's?"
SCHEMA = '{"type":"object","properties":{"n":{"type":"integer","maximum":9007199254740993}}}'


def own(kind: str, data: object) -> v1.ProviderData:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return v1.ProviderData(provider=kind, data=text.encode())


def sse(*payloads: object, done: bool = True) -> bytes:
    out = b""
    for payload in payloads:
        if isinstance(payload, bytes):
            out += payload
        else:
            out += b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"
    return out + (b"data: [DONE]\n\n" if done else b"")


def chunk(delta: Mapping[str, Any], finish: str | None = None, **choice: Any) -> dict[str, Any]:
    told = {"index": 0, "delta": delta, "finish_reason": finish, **choice}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [told]}


def usage_chunk(usage: Mapping[str, Any] = USAGE) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "model": "m", "choices": [], "usage": dict(usage)}


def completion(
    message: Mapping[str, Any],
    finish: str | None = "stop",
    usage: Mapping[str, Any] | None = USAGE,
    **choice: Any,
) -> bytes:
    told: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m"}
    said = {"role": "assistant", "content": None, "refusal": None, **message}
    told["choices"] = [{"index": 0, "message": said, "finish_reason": finish, **choice}]
    if usage is not None:
        told["usage"] = usage
    return json.dumps(told, ensure_ascii=False).encode()


def halves(text: str) -> list[str]:
    return [text[: len(text) // 3], text[len(text) // 3 :]]


def streamed(message: Mapping[str, Any], finish: str | None = "stop", **choice: Any) -> bytes:
    """A message as OpenAI streams it."""
    parts: list[Any] = [chunk({"role": "assistant", "content": "", "refusal": None})]
    for key in ("reasoning_content", "reasoning", "content", "refusal"):
        if isinstance(message.get(key), str):
            parts += [chunk({key: piece}, **choice) for piece in halves(message[key])]
            choice = {}
    for place, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        start = {"name": function["name"], "arguments": ""}
        parts.append(chunk({"tool_calls": [{**call, "index": place, "function": start}]}))
        for piece in halves(function["arguments"]):
            # The id and the name stand in the first delta only.
            more = {"index": place, "function": {"arguments": piece}}
            parts.append(chunk({"tool_calls": [more]}))
    for key in ("reasoning_details", "annotations"):
        if key in message:
            parts.append(chunk({key: message[key]}))
    parts += [chunk({}, finish), usage_chunk()]
    return sse(b": keep-alive\n\n", *parts)


def text(words: str) -> v1.Part:
    return v1.Part(text=words)


def call(call_id: str, name: str, arguments: str) -> v1.Part:
    return v1.Part(tool_call=v1.ToolCall(id=call_id, name=name, arguments=arguments))


def calls(*given: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in given
    ]


def said(role: v1.Role.ValueType, *parts: v1.Part) -> v1.Message:
    return v1.Message(role=role, parts=parts)


def struct(data: dict[str, Any]) -> Struct:
    return ParseDict(data, Struct())


def answer(
    *parts: v1.Part,
    finish: v1.FinishReason.ValueType = v1.FINISH_REASON_STOP,
    word: str = "stop",
    usage: bool = True,
    **more: Any,
) -> v1.GenerateResponse:
    told = v1.GenerateResponse(
        id="chatcmpl-1",
        message=v1.Message(role=v1.ROLE_ASSISTANT, parts=parts),
        finish_reason=finish,
        provider_finish_reason=word,
        **more,
    )
    if usage:
        told.usage.CopyFrom(
            v1.Usage(input_tokens=23, output_tokens=13, cached_input_tokens=11, thinking_tokens=6)
        )
    return told


def case(
    feature: str,
    name: str,
    message: Mapping[str, Any],
    expected: v1.GenerateResponse,
    request: v1.GenerateRequest | None = None,
    asked: Mapping[str, Any] | None = None,
    finish: str = "stop",
    **choice: Any,
) -> Case:
    return Case(
        feature,
        name,
        streamed(message, finish, **choice),
        completion(message, finish, **choice),
        expected,
        request or v1.GenerateRequest(prompt="Hi"),
        asked or {},
    )


HELLO = {"content": WORDS}
HELLO_PART = text(WORDS)
WEATHER = v1.Tool(name="weather", description="The weather.", parameters=SCHEMA, strict=True)
TWO = calls(("call_1", "weather", '{"city":"Zürich"}'), ("call_2", "weather", '{"city": "東京"}'))
TWO_PARTS = (
    call("call_1", "weather", '{"city":"Zürich"}'),
    call("call_2", "weather", '{"city": "東京"}'),
)
TRIP = [
    said(v1.ROLE_USER, text("Weather?")),
    said(v1.ROLE_ASSISTANT, *TWO_PARTS),
    said(
        v1.ROLE_TOOL,
        v1.Part(tool_result=v1.ToolResult(tool_call_id="call_1", parts=[text("Sun")])),
        v1.Part(
            tool_result=v1.ToolResult(tool_call_id="call_2", parts=[text("none")], is_error=True)
        ),
    ),
]
LOGPROBS = {
    "content": [
        {"token": "Grü", "bytes": list("Grü".encode()), "logprob": -0.5,
         "top_logprobs": [{"token": "H", "bytes": [72], "logprob": -1.5}]}
    ],
    "refusal": None,
}  # fmt: skip


def with_schema() -> v1.GenerateRequest:
    request = v1.GenerateRequest(prompt="A number.")
    request.response_format.json_schema.schema = SCHEMA
    return request


def with_json_object() -> v1.GenerateRequest:
    request = v1.GenerateRequest(prompt="JSON.")
    request.response_format.json_object.SetInParent()
    return request


def round_trip(ids: Sequence[str] = ("call_1", "call_2")) -> Case:
    return case(
        "tool round trip",
        "results and an error",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(messages=TRIP, tools=[WEATHER]),
        {
            "messages": [
                {"role": "user", "content": "Weather?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{**c, "id": i} for c, i in zip(TWO, ids, strict=True)],
                },
                {"role": "tool", "tool_call_id": ids[0], "content": "Sun"},
                {"role": "tool", "tool_call_id": ids[1], "content": "Error:\nnone"},
            ]
        },
    )


TEXT = case(
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
)
PARALLEL = case(
    "parallel tools",
    "two in fragments, ids once",
    {"tool_calls": TWO},
    answer(*TWO_PARTS, finish=v1.FINISH_REASON_TOOL_CALLS, word="tool_calls"),
    finish="tool_calls",
)
THINKING = case(
    "thinking",
    "reasoning_content",
    {"reasoning_content": "Ich überlege.", **HELLO},
    answer(v1.Part(thinking=v1.Thinking(text="Ich überlege.")), HELLO_PART),
)
LENGTH = case(
    "finish reasons",
    "length",
    HELLO,
    answer(HELLO_PART, finish=v1.FINISH_REASON_MAX_OUTPUT_TOKENS, word="length"),
    finish="length",
)
USED = case("usage", "in the last chunk", HELLO, answer(HELLO_PART))

CASES = (
    TEXT,
    PARALLEL,
    USED,
    LENGTH,
    round_trip(),
    case("text", "nothing said", {"content": ""}, answer()),
    Case(
        "usage",
        "not told",
        sse(chunk({"content": WORDS}), chunk({}, "stop")),
        completion(HELLO, usage=None),
        answer(HELLO_PART, usage=False),
    ),
    case(
        "tools",
        "a named one, without arguments, called a stop",
        {"tool_calls": calls(("call_1", "now", "{}"))},
        answer(call("call_1", "now", "{}"), finish=v1.FINISH_REASON_TOOL_CALLS),
        v1.GenerateRequest(
            prompt="When?",
            tools=[v1.Tool(name="now"), WEATHER],
            tool_choice=v1.ToolChoice(
                mode=v1.ToolChoice.MODE_TOOL, tool_name="now", parallel_tool_calls=False
            ),
        ),
        {
            "tool_choice": {"type": "function", "function": {"name": "now"}},
            "parallel_tool_calls": False,
            "tools": [
                {"type": "function", "function": {"name": "now"}},
                {
                    "type": "function",
                    "function": {
                        "name": "weather",
                        "description": "The weather.",
                        "strict": True,
                        "parameters": json.loads(SCHEMA),
                    },
                },
            ],
        },
    ),
    case(
        "image in",
        "bytes and URL",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(
                    v1.ROLE_USER,
                    text("Look:"),
                    v1.Part(
                        image=v1.Image(
                            data=b"PNG", media_type="image/png", detail=v1.IMAGE_DETAIL_LOW
                        )
                    ),
                    v1.Part(image=v1.Image(url="https://x.y/z.jpg")),
                )
            ]
        ),
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Look:"},
                        {
                            "type": "image_url",
                            "image_url": {"url": "data:image/png;base64,UE5H", "detail": "low"},
                        },
                        {"type": "image_url", "image_url": {"url": "https://x.y/z.jpg"}},
                    ],
                }
            ]
        },
    ),
    case(
        "audio in",
        "a wave file",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(v1.ROLE_USER, v1.Part(audio=v1.Audio(data=b"RIFF", media_type="audio/wav")))
            ]
        ),
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "input_audio",
                            "input_audio": {"data": "UklGRg==", "format": "wav"},
                        }
                    ],
                }
            ]
        },
    ),
    case(
        "document in",
        "bytes and id",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(
                    v1.ROLE_USER,
                    v1.Part(
                        document=v1.Document(
                            data=b"%PDF", media_type="application/pdf", title="r.pdf"
                        )
                    ),
                    v1.Part(document=v1.Document(file_id="file-1")),
                )
            ]
        ),
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "file",
                            "file": {
                                "filename": "r.pdf",
                                "file_data": "data:application/pdf;base64,JVBERg==",
                            },
                        },
                        {"type": "file", "file": {"file_id": "file-1"}},
                    ],
                }
            ]
        },
    ),
    case(
        "JSON schema",
        "strict",
        {"content": '{"n": 4}'},
        answer(text('{"n": 4}')),
        with_schema(),
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "response", "strict": True, "schema": json.loads(SCHEMA)},
            }
        },
    ),
    case(
        "JSON object",
        "any",
        {"content": '{"n": 4}'},
        answer(text('{"n": 4}')),
        with_json_object(),
        {"response_format": {"type": "json_object"}},
    ),
    case(
        "thinking",
        "effort",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi", thinking=v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_HIGH)
        ),
        {"reasoning_effort": "high"},
    ),
    Case(
        "logprobs",
        "with alternatives",
        sse(chunk({"content": "Grü"}, logprobs=LOGPROBS), chunk({}, "stop"), usage_chunk()),
        completion({"content": "Grü"}, logprobs=LOGPROBS),
        answer(
            text("Grü"),
            logprobs=[
                v1.TokenLogprob(
                    token="Grü",
                    token_bytes="Grü".encode(),
                    logprob=-0.5,
                    top=[v1.TokenLogprob.Alternative(token="H", token_bytes=b"H", logprob=-1.5)],
                )
            ],
        ),
        v1.GenerateRequest(prompt="Hi", logprobs=v1.LogprobsOptions(top_logprobs=1)),
        {"logprobs": True, "top_logprobs": 1},
    ),
    case(
        "refusal",
        "in its own field",
        {"refusal": "Das möchte ich nicht."},
        answer(v1.Part(refusal="Das möchte ich nicht."), finish=v1.FINISH_REASON_REFUSAL),
    ),
    case(
        "finish reasons",
        "content_filter",
        HELLO,
        answer(HELLO_PART, finish=v1.FINISH_REASON_CONTENT_FILTER, word="content_filter"),
        finish="content_filter",
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
                seed=7,
                stop=["END"],
                presence_penalty=0.5,
                frequency_penalty=-0.5,
                logit_bias={5: -100},
            ),
            provider_options=struct({"service_tier": "flex"}),
        ),
        {
            "max_completion_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.75,
            "seed": 7,
            "stop": ["END"],
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "logit_bias": {"5": -100},
            "service_tier": "flex",
        },
    ),
)

# The others ───────────────────────────────────────────────────────────────────────────────────────

VLLM = (
    TEXT,
    PARALLEL,
    USED,
    LENGTH,
    round_trip(),
    THINKING,
    case(
        "thinking",
        "reasoning, switched on",
        {"reasoning": "Ich überlege.", **HELLO},
        answer(v1.Part(thinking=v1.Thinking(text="Ich überlege.")), HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi", thinking=v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_LOW)
        ),
        {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"},
    ),
    case(
        "thinking round trip",
        "as reasoning",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(
                    v1.ROLE_ASSISTANT,
                    v1.Part(thinking=v1.Thinking(text="Hm.")),
                    text("Ja."),
                )
            ],
            prompt="Und?",
        ),
        {
            "messages": [
                {"role": "assistant", "content": "Ja.", "reasoning": "Hm."},
                {"role": "user", "content": "Und?"},
            ]
        },
    ),
    Case(
        "tools",
        "whole at once, without ids, places that never move, arguments as an object",
        sse(
            chunk({"tool_calls": [
                {"index": 0, "id": "a", "function": {"name": "one", "arguments": '{"x": 1}'}}]}),
            chunk({"tool_calls": [
                {"index": 0, "id": "b", "function": {"name": "two", "arguments": {"y": [2]}}}]}),
            chunk({}, "tool_calls"),
            usage_chunk(),
        ),
        completion(
            {"tool_calls": [
                {"id": "a", "function": {"name": "one", "arguments": '{"x": 1}'}},
                {"id": "b", "function": {"name": "two", "arguments": {"y": [2]}}}]},
            "tool_calls",
        ),
        answer(
            call("a", "one", '{"x": 1}'),
            call("b", "two", '{"y":[2]}'),
            finish=v1.FINISH_REASON_TOOL_CALLS,
            word="tool_calls",
        ),
    ),
    Case(
        "tools",
        "no id at all",
        sse(chunk({"tool_calls": [{"function": {"name": "one", "arguments": "{}"}}]}),
            chunk({}, "tool_calls"), usage_chunk()),
        completion({"tool_calls": [{"function": {"name": "one", "arguments": "{}"}}]},
                   "tool_calls"),
        answer(call("", "one", "{}"), finish=v1.FINISH_REASON_TOOL_CALLS, word="tool_calls"),
    ),
    Case(
        "finish reasons",
        "no [DONE], a stop string, usage in every chunk",
        sse({**chunk({"content": "Grü"}), "usage": {"prompt_tokens": 23, "completion_tokens": 1}},
            {**chunk({"content": "ße"}, "stop", stop_reason="END"), "usage": USAGE}, done=False),
        completion({"content": "Grüße"}, stop_reason="END"),
        answer(text("Grüße"), stop_sequence="END"),
    ),
    *(
        case("finish reasons", word, HELLO, answer(HELLO_PART, finish=finish, word=word),
             finish=word)
        for word, finish in (
            ("eos_token", v1.FINISH_REASON_STOP),
            ("max_tokens", v1.FINISH_REASON_MAX_OUTPUT_TOKENS),
            ("model_length", v1.FINISH_REASON_CONTEXT_LENGTH),
            ("SAFETY", v1.FINISH_REASON_CONTENT_FILTER),
            ("insufficient_system_resource", v1.FINISH_REASON_OTHER),
        )
    ),
)  # fmt: skip

LMSTUDIO = (
    *(
        one
        for one in CASES
        if one.feature not in ("JSON object", "sampling", "thinking", "audio in", "document in")
    ),
    THINKING,
    case(
        "JSON object",
        "by a schema that means the same",
        {"content": '{"n": 4}'},
        answer(text('{"n": 4}')),
        with_json_object(),
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "response", "schema": {"type": "object"}},
            }
        },
    ),
    case(
        "sampling",
        "other names",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi",
            sampling=v1.Sampling(max_output_tokens=9, top_k=3, repetition_penalty=1.5),
        ),
        {"max_tokens": 9, "top_k": 3, "repeat_penalty": 1.5},
    ),
)

DETAILS = [
    {"type": "reasoning.summary", "summary": "Kurz überlegt.", "index": 0},
    {"type": "reasoning.encrypted", "data": "gAAAAABo==", "index": 1},
]
OPENROUTER = (
    TEXT,
    USED,
    PARALLEL,
    case(
        "thinking",
        "a budget, and details that are opaque",
        {"reasoning": "Kurz überlegt.", "content": "Ja.", "reasoning_details": DETAILS},
        answer(
            v1.Part(thinking=v1.Thinking(text="Kurz überlegt.")),
            text("Ja."),
            v1.Part(provider_data=own("openrouter", {"reasoning_details": DETAILS})),
        ),
        v1.GenerateRequest(prompt="Hi", thinking=v1.ThinkingOptions(budget_tokens=2000)),
        {"reasoning": {"max_tokens": 2000}},
    ),
    case(
        "thinking round trip",
        "details go back as they came",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(
                    v1.ROLE_ASSISTANT,
                    v1.Part(thinking=v1.Thinking(text="Kurz überlegt.")),
                    text("Ja."),
                    v1.Part(provider_data=own("openrouter", {"reasoning_details": DETAILS})),
                )
            ],
            prompt="Und?",
        ),
        {
            "messages": [
                {"role": "assistant", "content": "Ja.", "reasoning_details": DETAILS},
                {"role": "user", "content": "Und?"},
            ]
        },
    ),
    case(
        "opaque parts",
        "where it was found",
        {"content": "Sonne.", "annotations": [{"type": "url_citation", "url": "https://w.ch"}]},
        answer(
            text("Sonne."),
            provider_metadata=struct(
                {"annotations": [{"type": "url_citation", "url": "https://w.ch"}]}
            ),
        ),
    ),
)

MISTRAL_CONTENT = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Ich überlege."}]},
    {"type": "text", "text": "Ja."},
]
MISTRAL = (
    TEXT,
    USED,
    PARALLEL,
    Case(
        "thinking",
        "chunks in a list",
        sse(
            chunk({"content": MISTRAL_CONTENT[:1]}),
            chunk({"content": "Ja."}),
            chunk({}, "stop"),
            usage_chunk(),
        ),
        completion({"content": MISTRAL_CONTENT}),
        answer(v1.Part(thinking=v1.Thinking(text="Ich überlege.")), text("Ja.")),
    ),
    round_trip(("74196fe72", "1b68f83fa")),
    case(
        "sampling",
        "other names",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi",
            sampling=v1.Sampling(seed=7, max_output_tokens=9),
            tools=[v1.Tool(name="now")],
            tool_choice=v1.ToolChoice(mode=v1.ToolChoice.MODE_REQUIRED),
        ),
        {"random_seed": 7, "max_tokens": 9, "tool_choice": "any"},
    ),
)

DEEPSEEK = (
    TEXT,
    USED,
    THINKING,
    case(
        "thinking",
        "switched off",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi", thinking=v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_NONE)
        ),
        {"thinking": {"type": "disabled"}},
    ),
)

SIGNATURE = {"google": {"thought_signature": "CsIBAVKhc7s+/=="}}
SIGNED = [{**calls(("call_1", "weather", '{"city":"Zürich"}'))[0], "extra_content": SIGNATURE}]
SIGNED_PART = v1.Part(
    tool_call=v1.ToolCall(id="call_1", name="weather", arguments='{"city":"Zürich"}'),
    provider_data=own("gemini", {"extra_content": SIGNATURE}),
)
GEMINI = (
    TEXT,
    USED,
    case(
        "tools",
        "with a thought's signature",
        {"tool_calls": SIGNED},
        answer(SIGNED_PART, finish=v1.FINISH_REASON_TOOL_CALLS, word="tool_calls"),
        finish="tool_calls",
    ),
    case(
        "thinking round trip",
        "the signature goes back byte for byte",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(v1.ROLE_ASSISTANT, SIGNED_PART),
                said(
                    v1.ROLE_TOOL,
                    v1.Part(tool_result=v1.ToolResult(tool_call_id="call_1", parts=[text("Sun")])),
                ),
            ]
        ),
        {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": SIGNED},
                {"role": "tool", "tool_call_id": "call_1", "content": "Sun"},
            ]
        },
    ),
)


def error(message: str = "It broke.", **more: Any) -> bytes:
    told = {"message": message, "type": None, "param": None, "code": None, **more}
    return json.dumps({"error": told}).encode()


def in_stream(body: bytes, kind: str = "") -> bytes:
    return (f"event: {kind}\n".encode() if kind else b"") + b"data: " + body + b"\n\n"


ERRORS = (
    BadAnswer("bad request", "INVALID_REQUEST", 400, error(type="invalid_request_error")),
    BadAnswer("too long", "CONTEXT_LENGTH_EXCEEDED", 400, error(code="context_length_exceeded")),
    BadAnswer("parameter", "UNSUPPORTED_FEATURE", 400,
              error(code="unsupported_parameter", param="top_p")),
    BadAnswer("policy", "CONTENT_REFUSED", 400, error(code="content_policy_violation")),
    BadAnswer("key", "PROVIDER_AUTHENTICATION", 401, error(f"bad key {KEY}")),
    BadAnswer("country", "PROVIDER_AUTHENTICATION", 403, error()),
    BadAnswer("model", "MODEL_NOT_FOUND", 404, error(code="model_not_found")),
    BadAnswer("rate", "PROVIDER_RATE_LIMITED", 429, error(), {"retry-after": "2"},
              retry_delay=2),
    BadAnswer("quota", "PROVIDER_QUOTA_EXHAUSTED", 429, error(code="insufficient_quota")),
    BadAnswer("server", "PROVIDER_UNAVAILABLE", 500, error()),
    BadAnswer("overloaded", "PROVIDER_UNAVAILABLE", 503, b"<html><title>503</title></html>"),
    BadAnswer("an error that says 200", "PROVIDER_RATE_LIMITED", 200,
              error(code="rate_limit_exceeded")),
    BadAnswer("nothing", "PROVIDER_PROTOCOL", 200, b""),
    BadAnswer("a page", "PROVIDER_PROTOCOL", 200, b"<!DOCTYPE html><title>Hotel</title>"),
    BadAnswer("no choices", "PROVIDER_PROTOCOL", 200, b'{"id": "x", "choices": []}'),
    BadAnswer("server in the stream", "PROVIDER_UNAVAILABLE",
              in_stream=in_stream(error(type="server_error"))),
    BadAnswer("an error event", "PROVIDER_RATE_LIMITED",
              in_stream=in_stream(error(code="rate_limit_exceeded"), "error")),
    BadAnswer("a status in the stream", "PROVIDER_RATE_LIMITED",
              in_stream=in_stream(error(code=429))),
    BadAnswer("an error in a choice", "PROVIDER_UNAVAILABLE",
              in_stream=sse(chunk({"content": "x"}, "error",
                                  error={"code": 502, "message": "Upstream"}), done=False)),
    BadAnswer("ends in the middle", "PROVIDER_PROTOCOL", in_stream=b": bye\n\n"),
    BadAnswer("ends in a line", "PROVIDER_PROTOCOL", in_stream=b'data: {"choices": [{"del'),
)  # fmt: skip
FEW_ERRORS = (ERRORS[4], ERRORS[7], ERRORS[9], ERRORS[15], ERRORS[18], ERRORS[20])
OPENING = sse(chunk({"role": "assistant", "content": "Hello"}), done=False)


def make_openai(name: str, url: str, **settings: Any) -> ChatProvider:
    credentials = openai_credentials(name, base_url=f"{url}/v1", api_key=KEY)
    return ChatProvider(name, credentials, kind="openai", **settings)


def make(kind: str) -> Callable[..., ChatProvider]:
    def connect(name: str, url: str, **settings: Any) -> ChatProvider:
        return ChatProvider(name, bearer(name, f"{url}/v1", KEY), kind=kind, **settings)

    return connect


def like(name: str, kind: str, cases: tuple[Case, ...]) -> Vendor:
    return Vendor(name, make(kind), cases, FEW_ERRORS, OPENING, key=KEY, like="openai (Chat)")


def make_lmstudio(name: str, url: str, **settings: Any) -> ChatProvider:
    return LMStudioProvider(name, bearer(name, f"{url}/v1", KEY), kind="lmstudio", **settings)


VENDORS = (
    Vendor("openai (Chat)", make_openai, CASES, ERRORS, OPENING, model="gpt-4.1", key=KEY),
    Vendor("lmstudio", make_lmstudio, LMSTUDIO, FEW_ERRORS, OPENING, key=KEY, like="openai (Chat)"),
    like("vllm", "vllm", VLLM),
    like("openrouter", "openrouter", OPENROUTER),
    like("mistral", "mistral", MISTRAL),
    like("deepseek", "deepseek", DEEPSEEK),
    like("gemini", "gemini", GEMINI),
)
