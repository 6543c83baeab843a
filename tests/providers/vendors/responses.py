"""OpenAI's Responses API.

Formats: developers.openai.com, API reference, "Create a model response", "Streaming events", guide
"Error codes", and the types of OpenAI's SDK.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from penstock import v1
from penstock_server.providers.openai.clients import azure_credentials, openai_credentials
from penstock_server.providers.openai.responses_provider import ResponsesProvider

from tests.providers.cases import BadAnswer, Case, Vendor

KEY = "sk-proj-very-secret-0123456789"
USAGE = {
    "input_tokens": 23,
    "input_tokens_details": {"cached_tokens": 11, "cache_write_tokens": 0},
    "output_tokens": 13,
    "output_tokens_details": {"reasoning_tokens": 6},
    "total_tokens": 36,
}


def own(data: object) -> v1.ProviderData:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return v1.ProviderData(provider="openai", data=text.encode())


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": 1, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def thirds(text: str) -> list[str]:
    return [text[: len(text) // 3], text[len(text) // 3 :]]


def message(*content: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": list(content), **more}  # fmt: skip


def output(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": words, "annotations": [], "logprobs": [], **more}


def item_events(index: int, item: Mapping[str, Any]) -> bytes:
    """How an item streams: added, deltas, done."""
    at = {"output_index": index, "item_id": item.get("id", "")}
    out = b""
    empty = {"content": [], "summary": [], "arguments": "", "status": "in_progress"}
    added = {k: empty.get(k, v) for k, v in item.items() if k != "encrypted_content"}
    out += event("response.output_item.added", output_index=index, item=added)
    match item["type"]:
        case "message":
            for place, part in enumerate(item["content"]):
                where = {**at, "content_index": place}
                out += event("response.content_part.added", **where, part={**part, "text": ""})
                if part["type"] == "refusal":
                    for piece in thirds(part["refusal"]):
                        out += event("response.refusal.delta", **where, delta=piece)
                    out += event("response.refusal.done", **where, refusal=part["refusal"])
                    continue
                known = part.get("logprobs") or []
                if known:
                    for one in known:
                        # In deltas they come without bytes.
                        bare = {**one, "top_logprobs": [
                            {k: v for k, v in top.items() if k != "bytes"}
                            for top in one["top_logprobs"]
                        ]}  # fmt: skip
                        del bare["bytes"]
                        out += event("response.output_text.delta", **where, delta=one["token"],
                                     logprobs=[bare])  # fmt: skip
                else:
                    for piece in thirds(part["text"]):
                        out += event("response.output_text.delta", **where, delta=piece,
                                     logprobs=[], obfuscation="a8f3")  # fmt: skip
                for number, note in enumerate(part.get("annotations") or []):
                    out += event("response.output_text.annotation.added", **where,
                                 annotation_index=number, annotation=note)  # fmt: skip
                out += event("response.output_text.done", **where, text=part["text"], logprobs=[])
                out += event("response.content_part.done", **where, part=part)
        case "reasoning":
            for place, part in enumerate(item["summary"]):
                where = {**at, "summary_index": place}
                out += event("response.reasoning_summary_part.added", **where,
                             part={"type": "summary_text", "text": ""})  # fmt: skip
                for piece in thirds(part["text"]):
                    out += event("response.reasoning_summary_text.delta", **where, delta=piece)
                out += event("response.reasoning_summary_text.done", **where, text=part["text"])
                out += event("response.reasoning_summary_part.done", **where, part=part)
            for place, part in enumerate(item.get("content") or []):
                for piece in thirds(part["text"]):
                    out += event("response.reasoning_text.delta", **at, content_index=place,
                                 delta=piece)  # fmt: skip
        case "function_call":
            for piece in thirds(item["arguments"]):
                out += event("response.function_call_arguments.delta", **at, delta=piece)
            out += event("response.function_call_arguments.done", **at,
                         arguments=item["arguments"])  # fmt: skip
        case "web_search_call":
            out += event("response.web_search_call.searching", **at)
    return out + event("response.output_item.done", output_index=index, item=item)


def response(items: Sequence[Mapping[str, Any]], status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1760000000,
        "status": status,
        "model": "gpt-5-nano-2025-08-07",
        "output": list(items),
        "error": None,
        "incomplete_details": None,
        "usage": USAGE,
        **more,
    }


def streamed(items: Sequence[Mapping[str, Any]], status: str = "completed", **more: Any) -> bytes:
    begun = response([], "in_progress", usage=None)
    out = event("response.created", response=begun) + event("response.in_progress", response=begun)
    out += b": keep-alive\n\n"
    for index, item in enumerate(items):
        out += item_events(index, item)
    out += event("response.something_new", surprise=1)
    kind = "response.incomplete" if status == "incomplete" else "response.completed"
    return out + event(kind, response=response(items, status, **more))


def answer(
    *parts: v1.Part,
    finish: v1.FinishReason.ValueType = v1.FINISH_REASON_STOP,
    word: str = "completed",
    **more: Any,
) -> v1.GenerateResponse:
    return v1.GenerateResponse(
        id="resp_1",
        message=v1.Message(role=v1.ROLE_ASSISTANT, parts=parts),
        finish_reason=finish,
        provider_finish_reason=word,
        usage=v1.Usage(
            input_tokens=23, output_tokens=13, cached_input_tokens=11, thinking_tokens=6
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


def case(
    feature: str,
    name: str,
    items: Sequence[Mapping[str, Any]],
    expected: v1.GenerateResponse,
    request: v1.GenerateRequest | None = None,
    asked: Mapping[str, Any] | None = None,
    status: str = "completed",
    **more: Any,
) -> Case:
    return Case(
        feature,
        name,
        streamed(items, status, **more),
        json.dumps(response(items, status, **more), ensure_ascii=False).encode(),
        expected,
        request or v1.GenerateRequest(prompt="Hi"),
        asked or {},
    )


WORDS = "Grüße aus 東京 🎉, wie geht's?"
HELLO = [message(output(WORDS))]
HELLO_PART = text(WORDS)

WEATHER = v1.Tool(
    name="weather",
    description="The weather.",
    parameters='{"type":"object","properties":{"city":{"type":"string","n":9007199254740993}}}',
    strict=True,
)
CALLS = [
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather",
     "arguments": '{"city":"Zürich"}', "status": "completed"},
    {"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "weather",
     "arguments": '{"city": "東京"}', "status": "completed"},
]  # fmt: skip
CALL_PARTS = (
    call("call_1", "weather", '{"city":"Zürich"}'),
    call("call_2", "weather", '{"city": "東京"}'),
)
REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [
        {"type": "summary_text", "text": "**Überlegen**"},
        {"type": "summary_text", "text": "2 + 2 ist 4."},
    ],
    "encrypted_content": "gAAAAABo1q+/Zz==",
}
SILENT = {"id": "rs_2", "type": "reasoning", "summary": [], "encrypted_content": "gAAAAAB9=="}
OPEN = {
    "id": "rs_3",
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Laut gedacht: 東."}],
}
SEARCH = {"id": "ws_1", "type": "web_search_call", "status": "completed",
          "action": {"type": "search", "query": "Zürich"}}  # fmt: skip
NOTE = {"type": "url_citation", "url": "https://w.ch", "title": "Wetter", "start_index": 0,
        "end_index": 3}  # fmt: skip
SCHEMA = '{"type":"object","properties":{"n":{"type":"integer","maximum":9007199254740993}}}'
LOGPROBS = [
    {"token": "Grü", "bytes": list("Grü".encode()), "logprob": -0.5,
     "top_logprobs": [{"token": "Hal", "bytes": [72, 97, 108], "logprob": -1.5}]},
    {"token": "ße", "bytes": list("ße".encode()), "logprob": -0.25, "top_logprobs": []},
]  # fmt: skip


def with_schema() -> v1.GenerateRequest:
    request = v1.GenerateRequest(prompt="A number.")
    request.response_format.json_schema.schema = SCHEMA
    return request


def with_json_object() -> v1.GenerateRequest:
    request = v1.GenerateRequest(prompt="JSON.")
    request.response_format.json_object.SetInParent()
    return request


CASES = (
    case(
        "text",
        "plain",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Wie?",
            system="Kurz.",
            messages=[
                said(v1.ROLE_SYSTEM, text("Deutsch.")),
                said(v1.ROLE_USER, text("Hallo")),
                said(v1.ROLE_ASSISTANT, text("Ja?"), v1.Part(refusal="Nein.")),
            ],
        ),
        {
            "instructions": "Kurz.",
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "input": [
                {"role": "system", "content": [{"type": "input_text", "text": "Deutsch."}]},
                {"role": "user", "content": [{"type": "input_text", "text": "Hallo"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "output_text", "text": "Ja?"},
                        {"type": "refusal", "refusal": "Nein."},
                    ],
                },
                {"role": "user", "content": [{"type": "input_text", "text": "Wie?"}]},
            ],
        },
    ),
    case("text", "nothing said", [], answer()),
    Case(
        "text",
        "a server that only says what is done",
        event("response.created", response={"id": "resp_1"})
        + event("response.output_item.done", output_index=0, item=HELLO[0])
        + event(
            "response.completed", response={"id": "resp_1", "status": "completed", "usage": USAGE}
        )
        + b"data: [DONE]\n\n",
        json.dumps(
            {"id": "resp_1", "status": "completed", "output": HELLO, "usage": USAGE}
        ).encode(),
        answer(HELLO_PART),
    ),
    case(
        "text",
        "comments on the way are told apart",
        [
            message(output("Ich schaue."), phase="commentary"),
            message(output("Vier."), phase="final_answer"),
        ],
        answer(
            v1.Part(text="Ich schaue.", provider_data=own({"phase": "commentary"})),
            v1.Part(text="Vier.", provider_data=own({"phase": "final_answer"})),
        ),
    ),
    case("usage", "cached and thinking", HELLO, answer(HELLO_PART)),
    case(
        "tools",
        "a named one, without arguments",
        [
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "call_1",
                "name": "now",
                "arguments": "{}",
                "status": "completed",
            }
        ],
        answer(call("call_1", "now", "{}"), finish=v1.FINISH_REASON_TOOL_CALLS),
        v1.GenerateRequest(
            prompt="When?",
            tools=[v1.Tool(name="now")],
            tool_choice=v1.ToolChoice(mode=v1.ToolChoice.MODE_TOOL, tool_name="now"),
        ),
        {"tool_choice": {"type": "function", "name": "now"}},
    ),
    case(
        "parallel tools",
        "two in fragments",
        CALLS,
        answer(*CALL_PARTS, finish=v1.FINISH_REASON_TOOL_CALLS),
        v1.GenerateRequest(
            prompt="Weather?",
            tools=[WEATHER],
            tool_choice=v1.ToolChoice(mode=v1.ToolChoice.MODE_REQUIRED, parallel_tool_calls=True),
        ),
        {
            "tools": [
                {
                    "type": "function",
                    "name": "weather",
                    "description": "The weather.",
                    "strict": True,
                    "parameters": json.loads(WEATHER.parameters),
                }
            ],
            "tool_choice": "required",
            "parallel_tool_calls": True,
        },
    ),
    case(
        "tool round trip",
        "results, an image and an error",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(v1.ROLE_USER, text("Weather?")),
                said(v1.ROLE_ASSISTANT, *CALL_PARTS),
                said(
                    v1.ROLE_TOOL,
                    v1.Part(
                        tool_result=v1.ToolResult(
                            tool_call_id="call_1",
                            parts=[
                                text("Sun"),
                                v1.Part(image=v1.Image(data=b"PNG", media_type="image/png")),
                            ],
                        )
                    ),
                    v1.Part(
                        tool_result=v1.ToolResult(
                            tool_call_id="call_2", parts=[text("no such city")], is_error=True
                        )
                    ),
                ),
            ],
            tools=[WEATHER],
        ),
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
                {
                    "type": "function_call",
                    "call_id": "call_1",
                    "name": "weather",
                    "arguments": '{"city":"Zürich"}',
                },
                {
                    "type": "function_call",
                    "call_id": "call_2",
                    "name": "weather",
                    "arguments": '{"city": "東京"}',
                },
                {
                    "type": "function_call_output",
                    "call_id": "call_1",
                    "output": [
                        {"type": "input_text", "text": "Sun"},
                        {
                            "type": "input_image",
                            "detail": "auto",
                            "image_url": "data:image/png;base64,UE5H",
                        },
                    ],
                },
                {
                    "type": "function_call_output",
                    "call_id": "call_2",
                    "output": "Error:\nno such city",
                },
            ]
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
                    v1.Part(
                        image=v1.Image(
                            data=b"PNG", media_type="image/png", detail=v1.IMAGE_DETAIL_HIGH
                        )
                    ),
                    v1.Part(image=v1.Image(url="https://x.y/z.jpg")),
                )
            ]
        ),
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "input_image",
                            "image_url": "data:image/png;base64,UE5H",
                            "detail": "high",
                        },
                        {"type": "input_image", "image_url": "https://x.y/z.jpg", "detail": "auto"},
                    ],
                }
            ]
        },
    ),
    case(
        "document in",
        "bytes, URL and id",
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
                    v1.Part(document=v1.Document(url="https://x.y/z.pdf")),
                    v1.Part(document=v1.Document(file_id="file-1")),
                )
            ]
        ),
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "input_file",
                            "filename": "r.pdf",
                            "file_data": "data:application/pdf;base64,JVBERg==",
                        },
                        {"type": "input_file", "file_url": "https://x.y/z.pdf"},
                        {"type": "input_file", "file_id": "file-1"},
                    ],
                }
            ]
        },
    ),
    case(
        "JSON schema",
        "strict",
        [message(output('{"n": 4}'))],
        answer(text('{"n": 4}')),
        with_schema(),
        {
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "response",
                    "strict": True,
                    "schema": json.loads(SCHEMA),
                }
            }
        },
    ),
    case(
        "JSON object",
        "any",
        [message(output('{"n": 4}'))],
        answer(text('{"n": 4}')),
        with_json_object(),
        {"text": {"format": {"type": "json_object"}}},
    ),
    case(
        "thinking",
        "summaries",
        [REASONING, *HELLO],
        answer(
            v1.Part(
                thinking=v1.Thinking(text="**Überlegen**\n\n2 + 2 ist 4."),
                provider_data=own(REASONING),
            ),
            HELLO_PART,
        ),
        v1.GenerateRequest(
            prompt="2+2?",
            thinking=v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_LOW, include=True),
        ),
        {"reasoning": {"effort": "low", "summary": "auto"}},
    ),
    case(
        "thinking",
        "kept to themselves, and said aloud",
        [SILENT, OPEN, *HELLO],
        answer(
            v1.Part(thinking=v1.Thinking(), provider_data=own(SILENT)),
            v1.Part(thinking=v1.Thinking(text="Laut gedacht: 東."), provider_data=own(OPEN)),
            HELLO_PART,
        ),
    ),
    case(
        "thinking",
        "hidden",
        [REASONING, *HELLO],
        answer(v1.Part(thinking=v1.Thinking(), provider_data=own(REASONING)), HELLO_PART),
        v1.GenerateRequest(prompt="2+2?", thinking=v1.ThinkingOptions(include=False)),
    ),
    case(
        "thinking round trip",
        "encrypted content goes back byte for byte",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            messages=[
                said(v1.ROLE_USER, text("2+2?")),
                said(
                    v1.ROLE_ASSISTANT,
                    v1.Part(thinking=v1.Thinking(text="x"), provider_data=own(REASONING)),
                    v1.Part(provider_data=own(SEARCH)),
                    v1.Part(text="Vier.", provider_data=own({"phase": "final_answer"})),
                    v1.Part(thinking=v1.Thinking(text="somebody else's")),
                    v1.Part(
                        thinking=v1.Thinking(redacted=True),
                        provider_data=v1.ProviderData(provider="anthropic", data=b"{}"),
                    ),
                ),
            ],
            prompt="Sure?",
        ),
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
                REASONING,
                SEARCH,
                {
                    "role": "assistant",
                    "phase": "final_answer",
                    "content": [{"type": "output_text", "text": "Vier."}],
                },
                {"role": "user", "content": [{"type": "input_text", "text": "Sure?"}]},
            ]
        },
    ),
    case(
        "opaque parts",
        "a search, and where it was found",
        [SEARCH, message(output("Sonne.", annotations=[NOTE]))],
        answer(
            v1.Part(provider_data=own(SEARCH)),
            text("Sonne."),
            provider_metadata=struct({"annotations": [NOTE]}),
        ),
    ),
    case(
        "logprobs",
        "with alternatives",
        [message(output("Grüße", logprobs=LOGPROBS))],
        answer(
            text("Grüße"),
            logprobs=[
                v1.TokenLogprob(
                    token="Grü",
                    token_bytes="Grü".encode(),
                    logprob=-0.5,
                    top=[
                        v1.TokenLogprob.Alternative(token="Hal", token_bytes=b"Hal", logprob=-1.5)
                    ],
                ),
                v1.TokenLogprob(token="ße", token_bytes="ße".encode(), logprob=-0.25),
            ],
        ),
        v1.GenerateRequest(prompt="Hi", logprobs=v1.LogprobsOptions(top_logprobs=1)),
        {
            "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
            "top_logprobs": 1,
        },
    ),
    case(
        "refusal",
        "in its own part",
        [message({"type": "refusal", "refusal": "Das möchte ich nicht."})],
        answer(v1.Part(refusal="Das möchte ich nicht."), finish=v1.FINISH_REASON_REFUSAL),
    ),
    *(
        case(
            "finish reasons",
            word,
            HELLO,
            answer(HELLO_PART, finish=finish, word=word),
            status="incomplete",
            incomplete_details={"reason": word},
        )
        for word, finish in (
            ("max_output_tokens", v1.FINISH_REASON_MAX_OUTPUT_TOKENS),
            ("content_filter", v1.FINISH_REASON_CONTENT_FILTER),
            ("steered", v1.FINISH_REASON_OTHER),
        )
    ),
    case(
        "sampling",
        "all that there is, labels and options",
        HELLO,
        answer(HELLO_PART),
        v1.GenerateRequest(
            prompt="Hi",
            sampling=v1.Sampling(max_output_tokens=99, temperature=0.5, top_p=0.75),
            metadata={"team": "a"},
            provider_options=struct({"store": True, "service_tier": "flex", "max_tool_calls": 3}),
        ),
        {
            "max_output_tokens": 99,
            "temperature": 0.5,
            "top_p": 0.75,
            "metadata": {"team": "a"},
            "store": True,
            "service_tier": "flex",
            "max_tool_calls": 3,
        },
    ),
)


def error(message: str = "It broke.", **more: Any) -> bytes:
    told = {"message": message, "type": None, "param": None, "code": None, **more}
    return json.dumps({"error": told}).encode()


def failed(code: str) -> bytes:
    told = response([], "failed", error={"code": code, "message": "It broke."}, usage=None)
    return event("response.failed", response=told)


ERRORS = (
    BadAnswer("bad request", "INVALID_REQUEST", 400, error(type="invalid_request_error")),
    BadAnswer(
        "too long", "CONTEXT_LENGTH_EXCEEDED", 400, error(code="context_length_exceeded")
    ),
    BadAnswer(
        "parameter", "UNSUPPORTED_FEATURE", 400, error(code="unsupported_parameter", param="top_p")
    ),
    BadAnswer("policy", "CONTENT_REFUSED", 400, error(code="invalid_prompt")),
    BadAnswer("Azure's filter", "CONTENT_REFUSED", 400, error(code="content_filter")),
    BadAnswer(
        "key", "PROVIDER_AUTHENTICATION", 401,
        error("Incorrect API key provided: sk-proj-***************6789", code="invalid_api_key"),
    ),
    BadAnswer("key repeated", "PROVIDER_AUTHENTICATION", 401, error(f"bad key {KEY}")),
    BadAnswer("country", "PROVIDER_AUTHENTICATION", 403, error(code="unsupported_country")),
    BadAnswer("model", "MODEL_NOT_FOUND", 404, error(code="model_not_found")),
    BadAnswer("deployment", "MODEL_NOT_FOUND", 404, error(code="DeploymentNotFound")),
    BadAnswer("URL", "PROVIDER_PROTOCOL", 404, b""),
    BadAnswer(
        "rate", "PROVIDER_RATE_LIMITED", 429, error(code="rate_limit_exceeded"),
        {"retry-after-ms": "1500", "retry-after": "9"}, retry_delay=1.5,
    ),
    BadAnswer(
        "quota", "PROVIDER_QUOTA_EXHAUSTED", 429, error(code="insufficient_quota")
    ),
    BadAnswer("server", "PROVIDER_UNAVAILABLE", 500, error(type="server_error")),
    BadAnswer("overloaded", "PROVIDER_UNAVAILABLE", 503, error("Slow down")),
    BadAnswer("gateway timeout", "PROVIDER_UNAVAILABLE", 504, b"<html><title>504</title></html>"),
    BadAnswer("failed", "PROVIDER_UNAVAILABLE", 200,
              json.dumps(response([], "failed", error={"code": "server_error"})).encode()),
    BadAnswer("a page", "PROVIDER_PROTOCOL", 200, b"<!DOCTYPE html><title>Hotel</title>"),
    BadAnswer("nothing", "PROVIDER_PROTOCOL", 200, b""),
    *(
        BadAnswer(f"{code} in the stream", reason, in_stream=failed(code))
        for code, reason in (
            ("server_error", "PROVIDER_UNAVAILABLE"),
            ("rate_limit_exceeded", "PROVIDER_RATE_LIMITED"),
            ("invalid_prompt", "CONTENT_REFUSED"),
            ("bio_policy", "CONTENT_REFUSED"),
            ("vector_store_timeout", "PROVIDER_TIMEOUT"),
            ("invalid_image_url", "INVALID_REQUEST"),
            ("image_content_policy_violation", "CONTENT_REFUSED"),
        )
    ),
    BadAnswer(
        "an error event", "PROVIDER_UNAVAILABLE",
        in_stream=event("error", code="server_error", message="It broke.", param=None),
    ),
    BadAnswer(
        "an error event of Azure's", "PROVIDER_RATE_LIMITED",
        in_stream=event("error", error={"code": "rate_limit_exceeded", "message": "Slow down."}),
    ),
    BadAnswer("ends in the middle", "PROVIDER_PROTOCOL", in_stream=b": bye\n\n"),
    BadAnswer("ends in a line", "PROVIDER_PROTOCOL", in_stream=b"event: response.comp"),
    BadAnswer("no JSON", "PROVIDER_PROTOCOL", in_stream=b"data: {oops\n\n"),
)  # fmt: skip

OPENING = event("response.created", response=response([], "in_progress", usage=None)) + event(
    "response.output_text.delta", output_index=0, content_index=0, item_id="msg_1", delta="Hello"
)


def make(name: str, url: str, **settings: Any) -> ResponsesProvider:
    credentials = openai_credentials(name, base_url=f"{url}/v1", api_key=KEY)
    return ResponsesProvider(name, credentials, kind="openai", **settings)


def make_azure(name: str, url: str, **settings: Any) -> ResponsesProvider:
    credentials = azure_credentials(name, base_url=url, api_key=KEY)
    return ResponsesProvider(name, credentials, kind="azure", **settings)


def few(*features: str) -> tuple[Case, ...]:
    return tuple(next(one for one in CASES if one.feature == feature) for feature in features)


VENDORS = (
    Vendor("openai (Responses)", make, CASES, ERRORS, OPENING, model="gpt-5-nano", key=KEY),
    Vendor(
        "azure",
        make_azure,
        few("text", "parallel tools", "JSON schema", "thinking round trip", "usage"),
        ERRORS[:8],
        OPENING,
        model="gpt-5-nano",
        key=KEY,
        like="openai (Responses)",
    ),
)
