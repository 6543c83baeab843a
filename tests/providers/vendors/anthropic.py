"""Anthropic's Messages API.

Formats: platform.claude.com, API reference, "Create a message", "Streaming messages" and "Errors".
Bedrock sends the same events in frames of its own.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct as packing
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from penstock import v1
from penstock_server.providers.anthropic.clients import anthropic_credentials
from penstock_server.providers.anthropic.provider import AnthropicProvider
from penstock_server.providers.transport.credentials import Prepared, never_sending

from tests.providers.cases import BadAnswer, Case, Vendor

KEY = "sk-ant-api03-very-secret"
SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pk+/Zw=="
USAGE = {"input_tokens": 5, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 11}


def own(data: object) -> v1.ProviderData:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return v1.ProviderData(provider="anthropic", data=text.encode())


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def delta(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def halves(text: str) -> list[str]:
    return [text[: len(text) // 3], text[len(text) // 3 :]]


def deltas(index: int, block: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """How a block begins in a stream, and the deltas that follow."""
    match block["type"]:
        case "text":
            pieces = [delta(index, "text_delta", text=t) for t in halves(block["text"])]
            cited = block.get("citations") or []
            pieces += [delta(index, "citations_delta", citation=c) for c in cited]
            return {"type": "text", "text": ""}, pieces
        case "thinking":
            pieces = [delta(index, "thinking_delta", thinking=t) for t in halves(block["thinking"])]
            pieces.append(delta(index, "signature_delta", signature=block["signature"]))
            return {"type": "thinking", "thinking": "", "signature": ""}, pieces
        case "tool_use" | "server_tool_use":
            text = json.dumps(block["input"], ensure_ascii=False) if block["input"] else ""
            parts = ["", *halves(text)] if text else [""]
            pieces = [delta(index, "input_json_delta", partial_json=t) for t in parts]
            return {**block, "input": {}}, pieces
    return dict(block), []


def stream(
    blocks: Sequence[Mapping[str, Any]],
    stop: str = "end_turn",
    usage: Mapping[str, Any] = USAGE,
    output: int = 13,
    **more: Any,
) -> bytes:
    started: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
    }
    started |= {"stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
    out = [event("message_start", message=started), event("ping")]
    for index, block in enumerate(blocks):
        begun, pieces = deltas(index, block)
        out.append(event("content_block_start", index=index, content_block=begun))
        out += pieces
        out.append(b'event: ping\ndata: {"type": "ping"}\n\n')
        out.append(event("content_block_stop", index=index))
    details = more.pop("output_tokens_details", None)
    totals: dict[str, Any] = {"output_tokens": output}
    if details:
        totals["output_tokens_details"] = details
    end = {"stop_reason": stop, "stop_sequence": None, **more}
    out.append(event("message_delta", delta=end, usage=totals))
    out.append(event("something_new", surprise=True))
    out.append(event("message_stop"))
    return b"".join(out)


def whole(
    blocks: Sequence[Mapping[str, Any]],
    stop: str = "end_turn",
    usage: Mapping[str, Any] = USAGE,
    output: int = 13,
    **more: Any,
) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    totals: dict[str, Any] = {**usage, "output_tokens": output}
    if details := more.pop("output_tokens_details", None):
        totals["output_tokens_details"] = details
    told: dict[str, Any] = {**message, "content": list(blocks), "stop_reason": stop}
    told |= {"stop_sequence": None, "usage": totals, **more}
    return json.dumps(told, ensure_ascii=False).encode()


def answer(
    *parts: v1.Part,
    finish: v1.FinishReason.ValueType = v1.FINISH_REASON_STOP,
    word: str = "end_turn",
    thinking: int = 0,
    **more: Any,
) -> v1.GenerateResponse:
    return v1.GenerateResponse(
        id="msg_1",
        message=v1.Message(role=v1.ROLE_ASSISTANT, parts=parts),
        finish_reason=finish,
        provider_finish_reason=word,
        usage=v1.Usage(
            input_tokens=23,
            output_tokens=13,
            cached_input_tokens=11,
            cache_write_tokens=7,
            thinking_tokens=thinking,
        ),
        **more,
    )


def text(words: str) -> v1.Part:
    return v1.Part(text=words)


def call(call_id: str, name: str, arguments: str) -> v1.Part:
    return v1.Part(tool_call=v1.ToolCall(id=call_id, name=name, arguments=arguments))


def struct(data: dict[str, Any]) -> Struct:
    return ParseDict(data, Struct())


def said(role: v1.Role.ValueType, *parts: v1.Part) -> v1.Message:
    return v1.Message(role=role, parts=parts)


HELLO = [{"type": "text", "text": "Grüße aus 東京 🎉, wie geht's?"}]
HELLO_PART = text("Grüße aus 東京 🎉, wie geht's?")

WEATHER = v1.Tool(
    name="weather",
    description="The weather in a city.",
    parameters='{"type":"object","properties":{"city":{"type":"string","n":9007199254740993}}}',
    strict=True,
)
TWO_CALLS: list[dict[str, Any]] = [
    {"type": "text", "text": "Let me look."},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich"}},
    {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "東京", "days": 3}},
]
TWO_CALLS_PARTS = (
    text("Let me look."),
    call("toolu_1", "weather", '{"city": "Zürich"}'),
    call("toolu_2", "weather", '{"city": "東京", "days": 3}'),
)
NO_ARGUMENTS = [{"type": "tool_use", "id": "toolu_9", "name": "now", "input": {}}]

THOUGHT = [
    {"type": "thinking", "thinking": "Ich überlege: 2 + 2.", "signature": SIGNATURE},
    {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4a"},
    {"type": "text", "text": "Four."},
]
THOUGHT_PARTS = (
    v1.Part(
        thinking=v1.Thinking(text="Ich überlege: 2 + 2."),
        provider_data=own({"signature": SIGNATURE}),
    ),
    v1.Part(
        thinking=v1.Thinking(redacted=True),
        provider_data=own({"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4a"}),
    ),
    text("Four."),
)
SEARCH: dict[str, Any] = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search",
          "input": {"query": "Zürich Wetter"}}  # fmt: skip
FOUND: dict[str, Any] = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [{"type": "web_search_result", "title": "Wetter", "url": "https://w.ch"}],
}
CITATION = {"type": "web_search_result_location", "url": "https://w.ch", "cited_text": "Sonne"}

SCHEMA = '{"type":"object","properties":{"n":{"type":"integer","maximum":9007199254740993}}}'
JSON_ANSWER = [{"type": "text", "text": '{"n": 4}'}]
BY_TOOL = [{"type": "tool_use", "id": "toolu_3", "name": "number", "input": {"n": 4}}]


def case(
    feature: str,
    name: str,
    blocks: Sequence[Mapping[str, Any]],
    expected: v1.GenerateResponse,
    request: v1.GenerateRequest | None = None,
    asked: Mapping[str, Any] | None = None,
    stop: str = "end_turn",
    **more: Any,
) -> Case:
    return Case(
        feature,
        name,
        stream(blocks, stop, **more),
        whole(blocks, stop, **more),
        expected,
        request or v1.GenerateRequest(prompt="Hi"),
        asked or {},
    )


def schema_request(json_object: bool = False) -> v1.GenerateRequest:
    request = v1.GenerateRequest(prompt="A number.")
    if json_object:
        request.response_format.json_object.SetInParent()
    else:
        request.response_format.json_schema.name = "number"
        request.response_format.json_schema.schema = SCHEMA
    return request


REASONS = [
    ("max_tokens", v1.FINISH_REASON_MAX_OUTPUT_TOKENS),
    ("pause_turn", v1.FINISH_REASON_PAUSE),
    ("refusal", v1.FINISH_REASON_REFUSAL),
    ("model_context_window_exceeded", v1.FINISH_REASON_CONTEXT_LENGTH),
    ("something_else", v1.FINISH_REASON_OTHER),
]

CASES = [
    case(
        "text",
        "plain",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Wie?",
            system="Kurz.",
            messages=[
                said(v1.ROLE_USER, text("Hallo")),
                said(v1.ROLE_ASSISTANT, text("Ja?"), text("")),
            ],
        ),
        {
            "max_tokens": 64000,
            "system": [{"type": "text", "text": "Kurz."}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hallo"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Ja?"}]},
                {"role": "user", "content": [{"type": "text", "text": "Wie?"}]},
            ],
        },
    ),
    case("text", "nothing said", [], answer()),
    case("usage", "cached", HELLO, answer(HELLO_PART)),
    case(
        "usage",
        "thinking",
        HELLO,
        answer(HELLO_PART, thinking=6),
        output_tokens_details={"thinking_tokens": 6},
    ),
    case(
        "tools",
        "one without arguments",
        NO_ARGUMENTS,
        answer(call("toolu_9", "now", "{}"), finish=v1.FINISH_REASON_TOOL_CALLS, word="tool_use"),
        v1.GenerateRequest(
            prompt="When?",
            tools=[v1.Tool(name="now")],
            tool_choice=v1.ToolChoice(mode=v1.ToolChoice.MODE_TOOL, tool_name="now"),
        ),
        {
            "tools": [
                {
                    "name": "now",
                    "input_schema": {
                        "type": "object",
                        "properties": {},
                        "additionalProperties": False,
                    },
                }
            ],
            "tool_choice": {"type": "tool", "name": "now"},
        },
        stop="tool_use",
    ),
    case(
        "parallel tools",
        "two in fragments",
        TWO_CALLS,
        answer(*TWO_CALLS_PARTS, finish=v1.FINISH_REASON_TOOL_CALLS, word="tool_use"),
        v1.GenerateRequest(
            prompt="Weather?",
            tools=[WEATHER],
            tool_choice=v1.ToolChoice(mode=v1.ToolChoice.MODE_REQUIRED, parallel_tool_calls=False),
        ),
        {
            "tools": [
                {
                    "name": "weather",
                    "description": "The weather in a city.",
                    "strict": True,
                    "input_schema": json.loads(WEATHER.parameters),
                }
            ],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        },
        stop="tool_use",
    ),
    case(
        "tool round trip",
        "results and an error",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(v1.ROLE_USER, text("Weather?")),
                said(v1.ROLE_ASSISTANT, *TWO_CALLS_PARTS),
                said(
                    v1.ROLE_TOOL,
                    v1.Part(
                        tool_result=v1.ToolResult(
                            tool_call_id="toolu_1",
                            parts=[
                                text("Sun"),
                                v1.Part(image=v1.Image(data=b"PNG", media_type="image/png")),
                            ],
                        )
                    ),
                ),
                said(
                    v1.ROLE_TOOL,
                    v1.Part(
                        tool_result=v1.ToolResult(
                            tool_call_id="toolu_2", parts=[text("no such city")], is_error=True
                        )
                    ),
                ),
            ],
            prompt="And now?",
            tools=[WEATHER],
        ),
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
                {"role": "assistant", "content": TWO_CALLS},
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "toolu_1",
                            "content": [
                                {"type": "text", "text": "Sun"},
                                {
                                    "type": "image",
                                    "source": {
                                        "type": "base64",
                                        "media_type": "image/png",
                                        "data": "UE5H",
                                    },
                                },
                            ],
                        },
                        {
                            "type": "tool_result",
                            "tool_use_id": "toolu_2",
                            "content": [{"type": "text", "text": "no such city"}],
                            "is_error": True,
                        },
                        {"type": "text", "text": "And now?"},
                    ],
                },
            ]
        },
    ),
    case(
        "image in",
        "bytes and URLs",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(
                    v1.ROLE_USER,
                    v1.Part(image=v1.Image(data=b"PNG", media_type="image/png")),
                    v1.Part(image=v1.Image(url="https://x.y/z.jpg")),
                    v1.Part(image=v1.Image(url="data:image/gif;base64,R0lG")),
                )
            ]
        ),
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "UE5H"},
                        },
                        {"type": "image", "source": {"type": "url", "url": "https://x.y/z.jpg"}},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/gif", "data": "R0lG"},
                        },
                    ],
                }
            ]
        },
    ),
    case(
        "document in",
        "PDF, text, URL, file",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(
                    v1.ROLE_USER,
                    v1.Part(
                        document=v1.Document(
                            data=b"%PDF", media_type="application/pdf", title="Bericht"
                        )
                    ),
                    v1.Part(document=v1.Document(data="ü".encode(), media_type="text/markdown")),
                    v1.Part(document=v1.Document(url="https://x.y/z.pdf")),
                    v1.Part(document=v1.Document(file_id="file_1")),
                )
            ]
        ),
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "document",
                            "title": "Bericht",
                            "source": {
                                "type": "base64",
                                "media_type": "application/pdf",
                                "data": "JVBERg==",
                            },
                        },
                        {
                            "type": "document",
                            "source": {"type": "text", "media_type": "text/plain", "data": "ü"},
                        },
                        {"type": "document", "source": {"type": "url", "url": "https://x.y/z.pdf"}},
                        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
                    ],
                }
            ]
        },
    ),
    case(
        "JSON schema",
        "native",
        JSON_ANSWER,
        answer(text('{"n": 4}')),
        schema_request(),
        {"output_config": {"format": {"type": "json_schema", "schema": json.loads(SCHEMA)}}},
    ),
    case(
        "JSON object",
        "by a tool that has to be called",
        [{"type": "tool_use", "id": "toolu_3", "name": "response", "input": {"n": 4}}],
        answer(text('{"n": 4}'), word="tool_use"),
        schema_request(json_object=True),
        {
            "tools": [{"name": "response", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "tool", "name": "response", "disable_parallel_tool_use": True},
        },
        stop="tool_use",
    ),
    case(
        "thinking",
        "budget",
        THOUGHT,
        answer(*THOUGHT_PARTS),
        v1.GenerateRequest(prompt="2+2?", thinking=v1.ThinkingOptions(budget_tokens=2048)),
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
    ),
    case(
        "thinking",
        "effort, hidden",
        THOUGHT,
        answer(
            v1.Part(
                thinking=v1.Thinking(),
                provider_data=own({"signature": SIGNATURE, "thinking": "Ich überlege: 2 + 2."}),
            ),
            *THOUGHT_PARTS[1:],
        ),
        v1.GenerateRequest(
            prompt="2+2?",
            thinking=v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_HIGH, include=False),
        ),
        {
            "thinking": {"type": "adaptive", "display": "omitted"},
            "output_config": {"effort": "high"},
        },
    ),
    case(
        "thinking",
        "none",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi", thinking=v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_NONE)
        ),
        {"thinking": {"type": "disabled"}},
    ),
    case(
        "thinking round trip",
        "signatures go back byte for byte",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(v1.ROLE_USER, text("2+2?")),
                said(
                    v1.ROLE_ASSISTANT,
                    *THOUGHT_PARTS,
                    v1.Part(thinking=v1.Thinking(text="another provider's thought")),
                    v1.Part(provider_data=v1.ProviderData(provider="openai", data=b"other")),
                ),
            ],
            prompt="Sure?",
        ),
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
                {"role": "assistant", "content": THOUGHT},
                {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
            ]
        },
    ),
    case(
        "opaque parts",
        "a search on Anthropic's side, with citations",
        [SEARCH, FOUND, {"type": "text", "text": "Sonne.", "citations": [CITATION]}],
        answer(
            v1.Part(provider_data=own(SEARCH)),
            v1.Part(provider_data=own(FOUND)),
            v1.Part(text="Sonne.", provider_data=own({"citations": [CITATION]})),
        ),
    ),
    case(
        "opaque parts",
        "they go back",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(v1.ROLE_USER, text("Wetter?")),
                said(
                    v1.ROLE_ASSISTANT,
                    v1.Part(provider_data=own(SEARCH)),
                    v1.Part(provider_data=own(FOUND)),
                    v1.Part(text="Sonne.", provider_data=own({"citations": [CITATION]})),
                ),
            ],
            prompt="Und morgen?",
        ),
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Wetter?"}]},
                {
                    "role": "assistant",
                    "content": [
                        SEARCH,
                        FOUND,
                        {"type": "text", "text": "Sonne.", "citations": [CITATION]},
                    ],
                },
                {"role": "user", "content": [{"type": "text", "text": "Und morgen?"}]},
            ]
        },
    ),
    *(
        case("finish reasons", word, HELLO, answer(HELLO_PART, finish=reason, word=word), stop=word)
        for word, reason in REASONS
    ),
    case(
        "finish reasons",
        "stop sequence",
        HELLO,
        answer(HELLO_PART, word="stop_sequence", stop_sequence="END"),
        v1.GenerateRequest(prompt="Hi", sampling=v1.Sampling(stop=["END", "."])),
        {"stop_sequences": ["END", "."]},
        stop="stop_sequence",
        stop_sequence="END",
    ),
    case(
        "refusal",
        "with its category",
        HELLO,
        answer(
            HELLO_PART,
            finish=v1.FINISH_REASON_REFUSAL,
            word="refusal",
            provider_metadata=struct({"stop_details": {"type": "refusal", "category": "cyber"}}),
        ),
        stop="refusal",
        stop_details={"type": "refusal", "category": "cyber"},
    ),
    case(
        "sampling",
        "all that there is, and options",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi",
            sampling=v1.Sampling(max_output_tokens=9, temperature=0.5, top_p=0.75, top_k=3),
            metadata={"user_id": "u1", "team": "a"},
            provider_options=struct(
                {"service_tier": "standard_only", "cache_control": {"type": "ephemeral"}}
            ),
        ),
        {
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.75,
            "top_k": 3,
            "metadata": {"user_id": "u1"},
            "service_tier": "standard_only",
            "cache_control": {"type": "ephemeral"},
        },
    ),
]


def error(kind: str, message: str = "It broke.") -> bytes:
    told = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return json.dumps(told).encode()


TYPES = [
    (400, "invalid_request_error", "INVALID_REQUEST"),
    (401, "authentication_error", "PROVIDER_AUTHENTICATION"),
    (402, "billing_error", "PROVIDER_QUOTA_EXHAUSTED"),
    (403, "permission_error", "PROVIDER_AUTHENTICATION"),
    (413, "request_too_large", "INVALID_REQUEST"),
    (429, "rate_limit_error", "PROVIDER_RATE_LIMITED"),
    (500, "api_error", "PROVIDER_UNAVAILABLE"),
    (504, "timeout_error", "PROVIDER_TIMEOUT"),
    (529, "overloaded_error", "PROVIDER_UNAVAILABLE"),
]
ERRORS = (
    *(BadAnswer(kind, reason, status, error(kind)) for status, kind, reason in TYPES),
    *(
        BadAnswer(f"{kind} in the stream", reason, in_stream=b"event: error\ndata: "
                  + error(kind) + b"\n\n")
        for _, kind, reason in TYPES
    ),
    BadAnswer("no such model", "MODEL_NOT_FOUND", 404, error("not_found_error", "model: m")),
    BadAnswer(
        "too long",
        "CONTEXT_LENGTH_EXCEEDED",
        400,
        error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
    ),
    BadAnswer(
        "no credit",
        "PROVIDER_QUOTA_EXHAUSTED",
        400,
        error("invalid_request_error", "Your credit balance is too low to access the API."),
    ),
    BadAnswer(
        "rate limit with a time",
        "PROVIDER_RATE_LIMITED",
        429,
        error("rate_limit_error", f"for key {KEY}"),
        {"retry-after": "17", "anthropic-ratelimit-requests-remaining": "0"},
        retry_delay=17,
    ),
    BadAnswer("a page", "PROVIDER_PROTOCOL", 200, b"<!DOCTYPE html><title>Proxy</title>"),
    BadAnswer("a page of an error", "PROVIDER_UNAVAILABLE", 502, b"<html><title>Bad</title>"),
    BadAnswer("nothing", "PROVIDER_PROTOCOL", 200, b""),
    BadAnswer("an error that says 200", "PROVIDER_UNAVAILABLE", 200, error("overloaded_error")),
    BadAnswer("ends in the middle", "PROVIDER_PROTOCOL", in_stream=event("ping")),
    BadAnswer("ends in a line", "PROVIDER_PROTOCOL", in_stream=b"event: content_block_del"),
    BadAnswer("no JSON", "PROVIDER_PROTOCOL", in_stream=b"event: ping\ndata: {oops\n\n"),
    BadAnswer(
        "more of nothing", "PROVIDER_PROTOCOL", in_stream=delta(7, "text_delta", text="x")
    ),
)  # fmt: skip

STARTED = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
OPENING = (
    event("message_start", message={**STARTED, "usage": {"input_tokens": 1, "output_tokens": 1}})
    + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + delta(0, "text_delta", text="Hello")
)


def make(name: str, url: str, **settings: Any) -> AnthropicProvider:
    credentials = anthropic_credentials(name, base_url=url, api_key=KEY)
    return AnthropicProvider(name, credentials, **settings)


# Bedrock ──────────────────────────────────────────────────────────────────────────────────────────


def frame(payload: bytes, headers: Mapping[str, str]) -> bytes:
    """A message of Amazon's event stream encoding."""
    encoded = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct_(value) for name, value in
        headers.items()
    )  # fmt: skip
    prelude = packing.pack(">II", 16 + len(encoded) + len(payload), len(encoded))
    head = prelude + packing.pack(">I", binascii.crc32(prelude))
    body = head + encoded + payload
    return body + packing.pack(">I", binascii.crc32(body))


def struct_(value: str) -> bytes:
    return packing.pack(">H", len(value)) + value.encode()


def framed(events: bytes) -> bytes:
    """Server-sent events as frames."""
    out = b""
    for block in events.split(b"\n\n"):
        data = block.partition(b"data: ")[2]
        if data:
            payload = json.dumps({"bytes": base64.b64encode(data).decode(), "p": "abc"}).encode()
            headers = {":event-type": "chunk", ":content-type": "application/json",
                       ":message-type": "event"}  # fmt: skip
            out += frame(payload, headers)
    return out


def exception(kind: str) -> bytes:
    headers = {":exception-type": kind, ":content-type": "application/json",
               ":message-type": "exception"}  # fmt: skip
    return frame(b'{"message": "It broke."}', headers)


def make_bedrock(name: str, url: str, **settings: Any) -> AnthropicProvider:
    import anthropic

    sdk = anthropic.AsyncAnthropicBedrock(
        aws_access_key="AKIDEXAMPLE",
        aws_secret_key="wJalrXUtnFEMI-very-secret",
        aws_region="eu-central-1",
        base_url=url,
        max_retries=0,
        http_client=never_sending(),
    )
    credentials = Prepared(sdk, secrets=("wJalrXUtnFEMI-very-secret",))
    return AnthropicProvider(name, credentials, cloud="bedrock", **settings)


def make_vertex(name: str, url: str, **settings: Any) -> AnthropicProvider:
    import anthropic

    sdk = anthropic.AsyncAnthropicVertex(
        access_token="ya29.very-secret",
        region="europe-west1",
        project_id="example",
        base_url=url,
        max_retries=0,
        http_client=never_sending(),
    )
    credentials = Prepared(sdk, secrets=("ya29.very-secret",))
    return AnthropicProvider(name, credentials, cloud="vertex", **settings)


def on_bedrock(case: Case) -> Case:
    asked = {k: v for k, v in case.asked.items() if k != "stream"}
    stream_ = framed(case.stream)
    return Case(case.feature, case.name, stream_, case.whole, case.answer, case.request, asked)


BEDROCK_ERRORS = (
    BadAnswer(
        "throttled",
        "PROVIDER_RATE_LIMITED",
        429,
        b'{"message": "Too many requests"}',
        {"x-amzn-errortype": "ThrottlingException"},
    ),
    BadAnswer("no access", "PROVIDER_AUTHENTICATION", 403, b'{"message": "no access"}'),
    BadAnswer(
        "validation",
        "INVALID_REQUEST",
        400,
        b'{"__type": "com.amazon.coral#ValidationException", "message": "max_tokens"}',
    ),
    BadAnswer("throttled later", "PROVIDER_RATE_LIMITED",
              in_stream=exception("throttlingException")),
    BadAnswer("broken later", "PROVIDER_UNAVAILABLE",
              in_stream=exception("internalServerException")),
    BadAnswer("model timeout", "PROVIDER_TIMEOUT", in_stream=exception("modelTimeoutException")),
    BadAnswer("ends in the middle", "PROVIDER_PROTOCOL", in_stream=exception("x")[:20]),
    BadAnswer("a broken frame", "PROVIDER_PROTOCOL", in_stream=b"\x00\x00\x00\x20" + b"z" * 40),
)  # fmt: skip

VENDORS = (
    Vendor("anthropic", make, tuple(CASES), ERRORS, OPENING, model="claude-sonnet-5", key=KEY),
    Vendor(
        "anthropic (Bedrock)",
        make_bedrock,
        tuple(on_bedrock(case) for case in CASES),
        BEDROCK_ERRORS,
        framed(OPENING),
        model="anthropic.claude-sonnet-5-v1:0",
        stream_type="application/vnd.amazon.eventstream",
        key="wJalrXUtnFEMI-very-secret",
    ),
    Vendor(
        "anthropic (Vertex)",
        make_vertex,
        tuple(case for case in CASES if case.feature in ("text", "parallel tools", "thinking")),
        ERRORS[:9],
        OPENING,
        model="claude-sonnet-5",
        key="ya29.very-secret",
        like="anthropic",
    ),
)
