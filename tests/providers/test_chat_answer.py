"""What is answered: whole and streamed, in any pieces, the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from penstock import v1
from penstock_server.providers.openai.chat_provider import ChatProvider

from tests.providers.asking import (
    CALL,
    completed,
    deltas,
    folded,
    kinds,
    question,
    streamed,
    timeless,
)
from tests.providers.upstream import (
    Upstream,
    as_json,
    as_stream,
    bytewise,
    chunks,
    completion,
    eventwise,
    gzipped,
    sse,
)

USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 20,
    "total_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 5, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 7},
}
TEXT = "Grüße 東京 🎉 \u2028 \x00 end"


def call(index: int, arguments: str = "", **first: str) -> dict[str, Any]:
    """A fragment of a tool call: id and name only in the first."""
    function = {"arguments": arguments} | {k: v for k, v in first.items() if k == "name"}
    return {"index": index, "function": function} | {k: v for k, v in first.items() if k == "id"}


def logprob(token: str, value: float, **top: float) -> dict[str, Any]:
    return {
        "token": token,
        "logprob": value,
        "bytes": list(token.encode()),
        "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in top.items()],
    }


@dataclass
class Case:
    """The same answer twice, as a whole message and as deltas, and what it means."""

    whole: Mapping[str, Any]
    deltas: Sequence[Mapping[str, Any]]
    parts: list[dict[str, Any]]
    finish: str = "stop"
    reason: str = "STOP"
    more: Mapping[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "text": Case(
        {"content": TEXT},
        [{"role": "assistant", "content": ""}, *({"content": letter} for letter in TEXT)],
        [{"text": TEXT}],
    ),
    "nothing": Case({"content": ""}, [{"role": "assistant", "content": None}], []),
    "cut short": Case(
        {"content": "Hm"}, [{"content": "Hm"}], [{"text": "Hm"}], "length", "MAX_OUTPUT_TOKENS"
    ),
    "filtered": Case(
        {"content": "I"}, [{"content": "I"}], [{"text": "I"}], "content_filter", "CONTENT_FILTER"
    ),
    "another reason": Case({"content": "x"}, [{"content": "x"}], [{"text": "x"}], "odd", "OTHER"),
    "a refusal": Case(
        {"refusal": "I cannot."},
        [{"refusal": "I "}, {"refusal": "cannot."}],
        [{"refusal": "I cannot."}],
        reason="REFUSAL",
    ),
    "reasoning_content": Case(
        {"reasoning_content": "Hm. So.", "content": "4"},
        [{"reasoning_content": "Hm. "}, {"reasoning_content": "So."}, {"content": "4"}],
        [{"thinking": {"text": "Hm. So."}}, {"text": "4"}],
    ),
    "reasoning": Case(
        {"reasoning": "Hm.", "content": "4"},
        [{"reasoning": "Hm."}, {"content": "4"}],
        [{"thinking": {"text": "Hm."}}, {"text": "4"}],
    ),
    "reasoning under both names": Case(
        {"reasoning": "Hm.", "reasoning_content": "Hm.", "content": "4"},
        [{"reasoning": "Hm.", "reasoning_content": "Hm."}, {"content": "4"}],
        [{"thinking": {"text": "Hm."}}, {"text": "4"}],
    ),
    "two parallel calls in fragments": Case(
        {
            "content": "Let me see.",
            "tool_calls": [
                {"id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}},
                {"id": "b", "function": {"name": "g", "arguments": '{"y": "für"}'}},
            ],
        },
        [
            {"content": "Let me see."},
            {"tool_calls": [call(0, id="a", name="f")]},
            {"tool_calls": [call(0, '{"x"')]},
            {"tool_calls": [call(1, '{"y', id="b", name="g"), call(0, ": ")]},
            {"tool_calls": [call(1, '": "f')]},
            {"tool_calls": [call(0, "1}"), call(1, 'ür"}')]},
        ],
        [
            {"text": "Let me see."},
            {"toolCall": {"id": "a", "name": "f", "arguments": '{"x": 1}'}},
            {"toolCall": {"id": "b", "name": "g", "arguments": '{"y": "für"}'}},
        ],
        "tool_calls",
        "TOOL_CALLS",
    ),
    "calls that are all at place 0": Case(
        {
            "tool_calls": [
                {"id": "a", "function": {"name": "f", "arguments": "{}"}},
                {"id": "b", "function": {"name": "f", "arguments": "[]"}},
            ]
        },
        [{"tool_calls": [call(0, "{}", id="a", name="f")]},
         {"tool_calls": [call(0, "[]", id="b", name="f")]}],
        [
            {"toolCall": {"id": "a", "name": "f", "arguments": "{}"}},
            {"toolCall": {"id": "b", "name": "f", "arguments": "[]"}},
        ],
        "stop",  # and so does OpenAI for a call that was forced
        "TOOL_CALLS",
    ),
    "a call that repeats id and name": Case(
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
        [
            {"tool_calls": [call(0, "{", id="a", name="f")]},
            {"tool_calls": [call(0, "}", id="a", name="f")]},
        ],
        [{"toolCall": {"id": "a", "name": "f", "arguments": "{}"}}],
        "tool_calls",
        "TOOL_CALLS",
    ),
    "a call without arguments": Case(
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": ""}}]},
        [{"tool_calls": [call(0, id="a", name="f")]}],
        [{"toolCall": {"id": "a", "name": "f", "arguments": "{}"}}],
        "tool_calls",
        "TOOL_CALLS",
    ),
}  # fmt: skip


def check(case: Case, response: v1.GenerateResponse) -> None:
    assert MessageToDict(response.message).get("parts", []) == case.parts
    assert response.message.role == v1.ROLE_ASSISTANT
    assert v1.FinishReason.Name(response.finish_reason) == f"FINISH_REASON_{case.reason}"
    assert response.provider_finish_reason == case.finish
    assert (response.id, response.model) == ("chatcmpl-1", "up/m")


@pytest.mark.parametrize("name", CASES)
async def test_the_same_whole_and_in_any_pieces(
    upstream: Upstream, provider: ChatProvider, name: str
) -> None:
    case = CASES[name]
    upstream.will(as_json(completion(case.whole, case.finish, USAGE)))
    whole = await provider.generate("m", question(), CALL)
    check(case, whole)
    stream = sse(*chunks(case.deltas, case.finish, USAGE))
    answers = []
    for script in (
        as_stream(stream, together=True),
        as_stream(*eventwise(stream)),
        as_stream(*bytewise(stream)),
    ):
        upstream.will(script)
        events = await streamed(provider)
        assert kinds(events)[0] == "started"
        assert events[0].started == v1.StreamStarted(id="chatcmpl-1", model="up/m")
        answer = completed(events)
        assert folded(events) == answer.message
        finished = [e.part_finished for e in events if e.HasField("part_finished")]
        assert {f.index: f.part for f in finished} == dict(enumerate(answer.message.parts))
        answers.append(timeless(answer))
    assert answers == [timeless(whole)] * len(answers)


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_and_what_else_is_said(
    upstream: Upstream, provider: ChatProvider, stream: bool
) -> None:
    more = {"model": "m-2026", "system_fingerprint": "fp", "service_tier": "flex"}
    if stream:
        upstream.will(as_stream(sse(*chunks([{"content": "x"}], usage=USAGE, **more))))
        answer = completed(await streamed(provider))
    else:
        upstream.will(as_json(completion({"content": "x"}, usage=USAGE, **more)))
        answer = await provider.generate("m", question(), CALL)
    assert answer.usage == v1.Usage(
        input_tokens=30,
        output_tokens=20,
        cached_input_tokens=10,
        cache_write_tokens=5,
        thinking_tokens=7,
    )
    assert dict(answer.provider_metadata) == more
    assert answer.timings.total.ToTimedelta() >= answer.timings.time_to_first_token.ToTimedelta()


async def test_unknown_usage_is_unset(upstream: Upstream, provider: ChatProvider) -> None:
    upstream.will(as_json(completion({"content": "x"}, usage=None)))
    assert not (await provider.generate("m", question(), CALL)).HasField("usage")
    upstream.will(as_json(completion({"content": "x"}, usage={"prompt_tokens": None})))
    assert (await provider.generate("m", question(), CALL)).usage == v1.Usage()


async def test_deltas_of_one_read_share_an_event(
    upstream: Upstream, provider: ChatProvider
) -> None:
    words = [f"word{i} " for i in range(200)]
    stream = sse(*chunks([{"content": word} for word in words]))
    upstream.will(as_stream(*eventwise(stream), together=True))  # an HTTP chunk each, one write
    events = await streamed(provider)
    assert "".join(delta.text for delta in deltas(events)) == "".join(words)
    assert len(deltas(events)) <= 4


async def test_deltas_are_not_held_back(upstream: Upstream, provider: ChatProvider) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    first, second, *rest = eventwise(sse(*chunks([{"content": "one"}, {"content": "two"}])))
    keep_alive = b": keep-alive\n\n"
    upstream.will(as_stream(first, gates[0], keep_alive, second, gates[1], *rest, gates[2]))
    seen: list[str] = []
    async with aclosing(provider.stream("m", question(), CALL)) as events:
        async for event in events:
            if event.HasField("part_delta"):
                gates[len(seen)].set()  # the server goes on only because this one has arrived
                seen.append(event.part_delta.text)
            if event.HasField("completed"):
                break  # before the answer's last bytes
    assert seen == ["one", "two"]


async def test_parts_follow_one_another(upstream: Upstream, provider: ChatProvider) -> None:
    stream = sse(*chunks(CASES["reasoning_content"].deltas))
    upstream.will(as_stream(*eventwise(stream)))
    events = await streamed(provider)
    order = [(kind, getattr(e, kind).index) for e in events if "part" in (kind := kinds([e])[0])]
    assert [step for step in order if step[0] != "part_delta"] == [
        ("part_started", 0),
        ("part_finished", 0),  # the thought is whole once the text begins
        ("part_started", 1),
        ("part_finished", 1),
    ]


async def test_indexes_never_move(upstream: Upstream, provider: ChatProvider) -> None:
    """A text between two pieces of a call is a part of its own and leaves the call open."""
    stream = chunks(
        [
            {"tool_calls": [call(0, '{"a":', id="a", name="f")]},
            {"content": "wait"},
            {"tool_calls": [call(0, "1}")]},
        ],
        "tool_calls",
    )
    upstream.will(as_stream(*eventwise(sse(*stream))))
    events = await streamed(provider)
    answer = completed(events)
    assert [p.WhichOneof("content") for p in answer.message.parts] == ["tool_call", "text"]
    assert answer.message.parts[0].tool_call.arguments == '{"a":1}'
    assert [delta.index for delta in deltas(events)] == [0, 1, 0]


async def test_missing_ids_are_made_up(upstream: Upstream, provider: ChatProvider) -> None:
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("f", "f")]
    upstream.will(as_json(completion({"tool_calls": calls}, "tool_calls", id=None)))
    answer = await provider.generate("m", question(), CALL)
    ids = [part.tool_call.id for part in answer.message.parts]
    assert all(ids)
    assert len(set(ids)) == 2
    assert answer.id == "request-1"


async def test_an_id_is_told_when_the_call_starts(
    upstream: Upstream, provider: ChatProvider
) -> None:
    told = chunks([{"tool_calls": [call(0, name="f")]}, {"tool_calls": [call(0, "{}")]}])
    upstream.will(as_stream(sse(*told)))
    events = await streamed(provider)
    started = next(e.part_started for e in events if e.HasField("part_started"))
    assert started.part.tool_call.id
    assert started.part.tool_call == v1.ToolCall(id=started.part.tool_call.id, name="f")
    assert completed(events).message.parts[0].tool_call.id == started.part.tool_call.id


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs(upstream: Upstream, provider: ChatProvider, stream: bool) -> None:
    first, half, second = (
        logprob("Hi", -0.5, Hi=-0.5, Ho=-1.5),
        logprob("\ufffd", -1),
        logprob("!", -2),
    )
    if stream:
        told = chunks([{"content": "Hi"}, {"content": ""}, {"content": "!"}])
        for chunk, heard in zip(told, (first, half, second), strict=False):
            chunk["choices"][0]["logprobs"] = {"content": [heard], "refusal": None}
        upstream.will(as_stream(*eventwise(sse(*told))))
        events = await streamed(provider)
        answer = completed(events)
        assert [x for delta in deltas(events) for x in delta.logprobs] == list(answer.logprobs)
    else:
        whole = completion({"content": "Hi!"})
        whole["choices"][0]["logprobs"] = {"content": [first, half, second]}
        upstream.will(as_json(whole))
        answer = await provider.generate("m", question(), CALL)
    assert [x.token for x in answer.logprobs] == ["Hi", "\ufffd", "!"]
    hi = answer.logprobs[0]
    assert (hi.token_bytes, hi.logprob) == (b"Hi", -0.5)
    assert [(top.token, top.logprob) for top in hi.top] == [("Hi", -0.5), ("Ho", -1.5)]


async def test_thoughts_can_be_left_out(upstream: Upstream, provider: ChatProvider) -> None:
    case = CASES["reasoning"]
    request = question(thinking=v1.ThinkingOptions(include=False))
    upstream.will(as_json(completion(case.whole)))
    answer = await provider.generate("m", request, CALL)
    assert [part.text for part in answer.message.parts] == ["4"]
    upstream.will(as_stream(sse(*chunks(case.deltas))))
    assert completed(await streamed(provider, request)).message == answer.message


async def test_the_stop_string_is_told(upstream: Upstream, provider: ChatProvider) -> None:
    told = completion({"content": "x"})
    for said, expected in (("END", "END"), (128001, ""), (None, "")):
        told["choices"][0]["stop_reason"] = said
        upstream.will(as_json(told))
        assert (await provider.generate("m", question(), CALL)).stop_sequence == expected


STREAM = sse(*chunks([{"content": "Hi"}]), done=False)

# Streams that are not quite as the standards have them, and all mean "Hi".
ODD_STREAMS = {
    "comments and empty events": b": ping\n\n: ping\n\n" + STREAM + b"data: [DONE]\n\n",
    "carriage returns": STREAM.replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n",
    "no [DONE]": STREAM,
    "no last line": STREAM + b"data: [DONE]",
    "no finish reason": sse(*chunks([{"content": "Hi"}], finish=None)),
    "nulls": STREAM.replace(b'"delta": {"content": "Hi"}', b'"delta": {"content": "Hi", '
             b'"role": null, "tool_calls": null, "refusal": null}, "logprobs": null'),
    "a byte order mark": b"\xef\xbb\xbf" + STREAM,
    "an empty first chunk": sse({"id": "", "choices": []}, done=False) + STREAM,
    "more after the end": STREAM + b"data: [DONE]\n\ndata: {what?\n\n",
    "other choices": sse({"choices": [{"index": 1, "delta": {"content": "Ho"}}]}, done=False)
             + STREAM,
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_STREAMS)
async def test_odd_streams(upstream: Upstream, provider: ChatProvider, name: str) -> None:
    for pieces in ([ODD_STREAMS[name]], bytewise(ODD_STREAMS[name])):
        upstream.will(as_stream(*pieces))
        answer = completed(await streamed(provider))
        assert [part.text for part in answer.message.parts] == ["Hi"]


async def test_a_server_that_does_not_stream(upstream: Upstream, provider: ChatProvider) -> None:
    upstream.will(as_json(completion({"content": "Hi"})))
    events = await streamed(provider)
    assert kinds(events) == ["started", "part_started", "part_delta", "part_finished", "completed"]


async def test_compressed_answers(upstream: Upstream, provider: ChatProvider) -> None:
    body = sse(completion({"content": TEXT}), done=False).removeprefix(b"data: ")
    upstream.will(gzipped(body))
    answer = await provider.generate("m", question(), CALL)
    assert answer.message.parts[0].text == TEXT


async def test_connections_are_kept(upstream: Upstream, provider: ChatProvider) -> None:
    for _ in range(3):
        upstream.will(as_stream(*eventwise(STREAM + b"data: [DONE]\n\n")))
        await streamed(provider)
        upstream.will(as_json(completion({"content": "Hi"})))
        await provider.generate("m", question(), CALL)
    assert upstream.connections == 1


async def test_calls_do_not_touch_each_other(upstream: Upstream, provider: ChatProvider) -> None:
    texts = [f"answer {i}" for i in range(20)]
    for text in texts:
        upstream.will(as_stream(*eventwise(sse(*chunks([{"content": c} for c in text])))))
    answers = await asyncio.gather(*(streamed(provider) for _ in texts))
    assert sorted(completed(events).message.parts[0].text for events in answers) == sorted(texts)
