"""Thoughts, calls, forms and log probabilities on the wire: both clients, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
from penstock import v1
from penstock_server.local import prompt
from penstock_server.local.job import MAX_TOKENS, Answer, Job, Scores
from penstock_server.local.provider import LocalProvider
from penstock_server.local.recipe import Look
from penstock_server.local.reply import Reply
from penstock_server.local.text import joined
from transformers import PreTrainedTokenizerFast

from tests.sidecars import chat_templates
from tests.sidecars.counting import MadeHere
from tests.sidecars.writing import WritingEngine, loaded
from tests.support.flavours import FLAVOURS, LoopThread
from tests.support.scripted import serving

TOOLS = [{"name": "add", "parameters": {"type": "object"}}, {"name": "now"}]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["é🦊", 1]}},
    "required": ["a"],
    "additionalProperties": False,
}
CALLS = (
    'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2,  3]}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)
STOP, TOOL_CALLS = v1.FINISH_REASON_STOP, v1.FINISH_REASON_TOOL_CALLS

Parts = Sequence[tuple[str, ...]]


class Case(NamedTuple):
    """What a model writes (None: it draws), what is asked, and what has to come of it."""

    tokenizer: PreTrainedTokenizerFast
    text: str | None
    options: dict[str, Any]
    parts: Parts | None
    finish: v1.FinishReason.ValueType = STOP


CASES = {
    "plain": Case(chat_templates.untaught(), "Hello 🦊!", {}, [("text", "Hello 🦊!")]),
    "thinking": Case(
        chat_templates.r1(),
        "Hm, 🦊.\n</think>\n\nYes.",
        {"top_logprobs": 1},
        [("thinking", "Hm, 🦊."), ("text", "Yes.")],
    ),
    "hidden": Case(
        chat_templates.r1(),
        "Hm.\n</think>\n\nYes.",
        {"include_thinking": False, "top_logprobs": 0},
        [("text", "Yes.")],
    ),
    "calls": Case(
        chat_templates.qwen(),
        f"<think>So.</think>{CALLS}",
        {"tools": TOOLS, "top_logprobs": 2},
        [
            ("thinking", "So."),
            ("text", "Let me see."),
            ("add", '{"a": 1, "b": [2,  3]}'),
            ("now", "{}"),
        ],
        TOOL_CALLS,
    ),
    "untaught calls": Case(
        chat_templates.untaught(),
        CALLS,
        {"tools": TOOLS},
        [("text", "Let me see."), ("add", '{"a": 1, "b": [2,  3]}'), ("now", "{}")],
        TOOL_CALLS,
    ),
    "llama": Case(
        chat_templates.llama(),
        '<|python_tag|>{"name": "add", "parameters": {"a": 1}}',
        {"tools": TOOLS},
        [("add", '{"a": 1}')],
        TOOL_CALLS,
    ),
    "mistral": Case(
        chat_templates.mistral(),
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]',
        {"tools": TOOLS},
        [("add", '{"a": 1}')],
        TOOL_CALLS,
    ),
    "no call": Case(
        chat_templates.qwen(),
        "<tool_call>add(1, 2)</tool_call>",
        {"tools": TOOLS},
        [("text", "<tool_call>add(1, 2)</tool_call>")],
    ),
    "cut call": Case(
        chat_templates.qwen(),
        '<tool_call>{"name": "add", "arguments": {"a": "and so on and on and on',
        {"tools": TOOLS, "max_output_tokens": 45},
        None,
        v1.FINISH_REASON_MAX_OUTPUT_TOKENS,
    ),
    "stop": Case(
        chat_templates.qwen(),
        f"{CALLS} Then I END.",
        {"tools": TOOLS, "stop": ["END", '"b"']},
        [
            ("text", "Let me see."),
            ("add", '{"a": 1, "b": [2,  3]}'),
            ("now", "{}"),
            ("text", "Then I "),
        ],
    ),
    "schema": Case(chat_templates.untaught(), None, {"response_format": SCHEMA}, None),
    "required": Case(
        chat_templates.qwen(),
        None,
        {"tools": TOOLS, "tool_choice": "now", "thinking": "none", "top_logprobs": 0},
        [("now", "{}")],
        TOOL_CALLS,
    ),
}


def engine(case: Case, look: Look, cache_memory: int) -> WritingEngine:
    known = loaded(case.tokenizer)

    def write(job: Job) -> Sequence[int]:
        return [*known.tokenizer.encode_part(case.text or ""), *known.end]

    return WritingEngine(known, None if case.text is None else write)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    thread = LoopThread()
    factories = {
        name.replace(" ", "-"): MadeHere(partial(engine, case)) for name, case in CASES.items()
    }

    async def start() -> tuple[Any, str]:
        context = serving(LocalProvider("local", factories))
        server, _ = await context.__aenter__()
        return context, server.addresses[0]

    context, address = thread.run(start())
    yield address
    thread.run(context.__aexit__(None, None, None))
    thread.close()


@pytest.fixture(params=FLAVOURS)
def client(request: pytest.FixtureRequest, address: str) -> Iterator[Any]:
    client = FLAVOURS[request.param](address, timeout=30)
    yield client
    client.close()


def parts_of(message: v1.Message) -> Parts:
    return [
        (part.tool_call.name, part.tool_call.arguments)
        if part.HasField("tool_call")
        else ("thinking", part.thinking.text)
        if part.HasField("thinking")
        else ("text", part.text)
        for part in message.parts
    ]


def check(case: Case, answer: v1.GenerateResponse) -> None:
    assert answer.finish_reason == case.finish
    if case.parts is not None:
        assert parts_of(answer.message) == case.parts
    calls = [part.tool_call for part in answer.message.parts if part.HasField("tool_call")]
    assert len({call.id for call in calls}) == len(calls)
    assert all(call.id for call in calls)
    has_thought = case.text is not None and "think>" in case.text
    assert (answer.usage.thinking_tokens > 0) == has_thought
    assert answer.usage.thinking_tokens < answer.usage.output_tokens
    if "top_logprobs" in case.options:
        shown = answer.usage.output_tokens
        if "include_thinking" in case.options:
            shown -= answer.usage.thinking_tokens
        ended = case.finish != v1.FINISH_REASON_MAX_OUTPUT_TOKENS and case.text is not None
        assert len(answer.logprobs) == shown - ended  # the end is no token of the text
        assert all(len(each.top) == case.options["top_logprobs"] for each in answer.logprobs)
        if case.text is not None and not answer.usage.thinking_tokens:
            assert "".join(each.token for each in answer.logprobs) == case.text
    else:
        assert not answer.logprobs


async def test_a_slow_reader_gets_all_of_it_at_once() -> None:
    known = loaded(chat_templates.r1())
    request = v1.GenerateRequest(prompt="Hi", logprobs=v1.LogprobsOptions())
    job = prompt.make_job(request, known)
    answer = Answer(job, lambda answer: None)
    tokens = known.tokenizer.encode_part("Hm.</think>\nYes. No.")
    for token in [*tokens, *known.end]:
        answer.receive(job.accept(token, Scores(-1.0)))
    chunk = await anext(answer)
    assert joined(chunk.pieces) == [("thinking", "Hm."), ("text", "Yes. No.")]
    assert (chunk.text, chunk.tokens) == ("Hm.Yes. No.", len(tokens) + 1)
    assert len(chunk.logprobs) == len(tokens)
    reply = Reply("1", "local/r1", 0.0)
    events = [*reply.add(chunk), *reply.complete(chunk.finish or MAX_TOKENS, job, ())]
    completed = events[-1].completed
    assert parts_of(completed.message) == [("thinking", "Hm."), ("text", "Yes. No.")]
    assert len(completed.logprobs) == len(tokens)


@pytest.mark.parametrize("name", CASES)
def test_whole(client: Any, name: str) -> None:
    model = f"local/{name.replace(' ', '-')}"
    check(CASES[name], client.generate("Hi", model=model, **CASES[name].options))


@pytest.mark.parametrize("name", CASES)
def test_streamed(client: Any, name: str) -> None:
    model = f"local/{name.replace(' ', '-')}"
    with client.stream("Hi", model=model, **CASES[name].options) as stream:
        events = list(stream)
    answer = events[-1].completed
    check(CASES[name], answer)
    open_parts: dict[int, list[str]] = {}
    came: list[v1.TokenLogprob] = []
    for event in events:
        if event.HasField("part_started"):
            open_parts[event.part_started.index] = []
        elif event.HasField("part_delta"):
            delta = event.part_delta
            kind = delta.WhichOneof("delta")
            open_parts[delta.index].append(getattr(delta, kind) if kind else "")
            came += delta.logprobs
        elif event.HasField("part_finished"):
            finished = event.part_finished
            assert finished.part == answer.message.parts[finished.index]
            text = "".join(open_parts.pop(finished.index))
            assert text == parts_of(v1.Message(parts=[finished.part]))[0][-1]
    assert not open_parts
    assert came == list(answer.logprobs)[: len(came)]


def test_json_for_a_schema(client: Any) -> None:
    for _ in range(4):
        answer = client.generate("Hi", model="local/schema", response_format=SCHEMA)
        assert json.loads(answer.message.parts[0].text) in ({"a": "é🦊"}, {"a": 1})


def test_a_cut_call_is_what_there_is(client: Any) -> None:
    case = CASES["cut call"]
    answer = client.generate("Hi", model="local/cut-call", **case.options)
    [(name, arguments)] = parts_of(answer.message)
    assert name == "add"
    assert arguments.startswith('{"a": "and so')


def test_what_models_can_do(client: Any) -> None:
    able = set(client.get_model("local/calls").capabilities)
    assert able == {
        v1.CAPABILITY_GENERATE,
        v1.CAPABILITY_STREAM,
        v1.CAPABILITY_TOOLS,
        v1.CAPABILITY_THINKING,
        v1.CAPABILITY_JSON_OBJECT,
        v1.CAPABILITY_JSON_SCHEMA,
        v1.CAPABILITY_LOGPROBS,
    }
    assert v1.CAPABILITY_THINKING not in client.get_model("local/plain").capabilities
