"""Thoughts and tool calls in a text that is cut anywhere: the same parts, and nothing lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_server.local.splitter import ShapedText, Splitter
from penstock_server.local.text import PlainDetokenizer, joined
from penstock_server.local.thinking import TAGS
from penstock_server.local.tool_formats import FORMATS, HERMES

Parts = list[tuple[str, str]]

FORMAT = {known.name: known for known in FORMATS}
THINK = TAGS[0]


def parts(pieces: list[str], **options: Any) -> Parts:
    """What a text means that comes in these pieces."""
    splitter = Splitter(**options)
    found = [part for piece in pieces for part in splitter.add(piece)]
    return [tuple(part) for part in joined([*found, *splitter.finish()])]


def call(name: str, arguments: str) -> Parts:
    return [("call", name), ("arguments", arguments)]


CASES: list[tuple[str, dict[str, Any], Parts]] = [
    # Thoughts.
    (
        "<think>\nHm.\n</think>\n\nYes.\n",
        {"tags": THINK},
        [("thinking", "Hm."), ("text", "Yes.\n")],
    ),
    (
        " \nHm. \n\n So.</think>Yes.",
        {"tags": THINK, "thinking": True},
        [("thinking", "Hm. \n\n So."), ("text", "Yes.")],
    ),
    ("<think>\n\n</think>\n\nYes.", {"tags": THINK}, [("text", "Yes.")]),
    ("Is <think> a tag?", {"tags": THINK}, [("text", "Is <think> a tag?")]),
    (" <thin", {"tags": THINK}, [("text", " <thin")]),
    ("<think>and so on", {"tags": THINK}, [("thinking", "and so on")]),
    ("[THINK]a[/THINK]b", {"tags": TAGS[1]}, [("thinking", "a"), ("text", "b")]),
    (
        '<think>I call.</think>\n<tool_call>{"name": "f", "arguments": {}}</tool_call>',
        {"tags": THINK, "format_": HERMES},
        [("thinking", "I call."), *call("f", "{}")],
    ),
    (
        '<think>I call.</think>\n{"name": "f", "parameters": {}}',
        {"tags": THINK, "format_": FORMAT["llama3"], "names": {"f"}},
        [("thinking", "I call."), *call("f", "{}")],
    ),
    # Hermes.
    (
        'Let me see.\n\n<tool_call>\n{"name": "f", "arguments": {"a": "}\\" <x>"}}\n</tool_call>\n'
        '<tool_call>\n{"arguments": {"b": [1,  2]}, "name": "g"}\n</tool_call>\n',
        {"format_": HERMES},
        [
            ("text", "Let me see."),
            *call("f", '{"a": "}\\" <x>"}'),
            *call("g", '{"b": [1,  2]}'),
        ],
    ),
    ("a <<tool_cal> b\n ", {"format_": HERMES}, [("text", "a <<tool_cal> b\n ")]),
    ('<tool_call>{"name": "f"}</tool_call>', {"format_": HERMES}, call("f", "{}")),
    ('<tool_call>{"name": "f", "arguments": null}', {"format_": HERMES}, call("f", "{}")),
    (
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
        {"format_": HERMES},
        call("f", '{"a": 1}'),
    ),
    (
        '<tool_call>{"arguments": "{\\"a\\": 1}", "id": "7", "name": "f"}</tool_call>',
        {"format_": HERMES},
        call("f", '{"a": 1}'),
    ),
    ('<tool_call>{"name": "f", "arguments": 7}', {"format_": HERMES}, call("f", "7")),
    (
        '<tool_call>{"name": "f", "arguments": {}} and so on',
        {"format_": HERMES},
        [*call("f", "{}"), ("text", "and so on")],
    ),
    (
        '<tool_call>{"name": "f", "arguments": {"a": "cut off',
        {"format_": HERMES},
        call("f", '{"a": "cut off'),
    ),
    (
        '<tool_call>{"name": "f", "arguments": {}}\n</tool_c',
        {"format_": HERMES},
        call("f", "{}"),
    ),
    # What is no call is text.
    (
        'So: <tool_call>\n{"nam": 1}</tool_call> <tool_call>{"name": "f"}</tool_call> done ',
        {"format_": HERMES},
        [
            ("text", 'So: <tool_call>\n{"nam": 1}</tool_call>'),
            *call("f", "{}"),
            ("text", "done "),
        ],
    ),
    ("<tool_call>f(x)</tool_call>", {"format_": HERMES}, [("text", "<tool_call>f(x)</tool_call>")]),
    ('<tool_call>{"name": "f', {"format_": HERMES}, [("text", '<tool_call>{"name": "f')]),
    (
        '<tool_call>{"name": "f o", "arguments": {}}',
        {"format_": HERMES},
        [("text", '<tool_call>{"name": "f o", "arguments": {}}')],
    ),
    # One at most.
    (
        '<tool_call>{"name": "f"}</tool_call><tool_call>{"name": "g"}</tool_call>',
        {"format_": HERMES, "single": True},
        call("f", "{}"),
    ),
    # Llama 3.
    (
        '{"name": "f", "parameters": {"a": 1}}',
        {"format_": FORMAT["llama3"], "names": {"f"}},
        call("f", '{"a": 1}'),
    ),
    (
        '<|python_tag|>{"type": "function", "name": "f", "parameters": {"a": 1}}',
        {"format_": FORMAT["llama3"], "names": {"f"}},
        call("f", '{"a": 1}'),
    ),
    (
        '{"name": "Bob", "parameters": {}}',
        {"format_": FORMAT["llama3"], "names": {"f"}},
        [("text", '{"name": "Bob", "parameters": {}}')],
    ),
    (
        'Use {"name": "f", "parameters": {}}',
        {"format_": FORMAT["llama3"], "names": {"f"}},
        [("text", 'Use {"name": "f", "parameters": {}}')],
    ),
    (
        '<|python_tag|>search.call(query="x")',
        {"format_": FORMAT["llama3"], "names": {"f"}},
        [("text", '<|python_tag|>search.call(query="x")')],
    ),
    # Mistral.
    (
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
        {"format_": FORMAT["mistral"]},
        [*call("f", '{"a": 1}'), *call("g", "{}")],
    ),
    (
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, oh',
        {"format_": FORMAT["mistral"]},
        [*call("f", '{"a": 1}'), ("text", ", oh")],
    ),
    (
        'Hi.[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]a1b2[ARGS]{"b": {}}',
        {"format_": FORMAT["mistral-named"]},
        [("text", "Hi."), *call("f", '{"a": 1}'), *call("g", '{"b": {}}')],
    ),
    (
        "[TOOL_CALLS]no, I do not",
        {"format_": FORMAT["mistral-named"]},
        [("text", "[TOOL_CALLS]no, I do not")],
    ),
]


@pytest.mark.parametrize(("text", "options", "expected"), CASES)
def test_what_a_text_means(text: str, options: dict[str, Any], expected: Parts) -> None:
    assert parts([text], **options) == expected
    assert parts(list(text), **options) == expected


@given(st.sampled_from(CASES), st.data())
def test_cut_anywhere_it_means_the_same(
    case: tuple[str, dict[str, Any], Parts], data: st.DataObject
) -> None:
    text, options, expected = case
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    bounds = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    assert parts(pieces, **options) == expected


scraps = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", '{"name": "f", ', '"arguments": ', "{}", "}", "[", "]", ","]
        + ["<think>", "</think>", "[TOOL_CALLS]", "[ARGS]", "f", " ", "\n", '"', "\\", "é", "<", "0"]
    ),
    max_size=14,
)
options = st.fixed_dictionaries(
    {
        "tags": st.sampled_from([None, *TAGS[:2]]),
        "format_": st.sampled_from([None, *FORMATS]),
        "names": st.just({"f"}),
    }
)


@given(scraps, options, st.booleans())
def test_any_nonsense_means_the_same_however_it_is_cut(
    scraps: list[str], options: dict[str, Any], thinking: bool
) -> None:
    options["thinking"] = thinking and options["tags"] is not None
    whole = parts(["".join(scraps)], **options)
    assert parts(scraps, **options) == whole
    assert parts(list("".join(scraps)), **options) == whole
    if not any(kind == "call" for kind, _ in whole) and options["tags"] is None:
        assert "".join(text for _, text in whole) == "".join(scraps)


def test_nothing_is_held_back_that_need_not_be() -> None:
    splitter = Splitter(THINK, HERMES)
    assert splitter.add("<think>Hm") == [("thinking", "Hm")]
    assert splitter.add(", <b") == [("thinking", ", <b")]
    assert splitter.add(" </th") == []
    assert splitter.add("ink>") == []
    assert splitter.add("Yes. <tool") == [("text", "Yes.")]
    assert splitter.add("s>") == [("text", " <tools>")]
    assert splitter.add('\n<tool_call>\n{"name": "f", "argum') == []
    assert splitter.add('ents": {"a') == [("call", "f"), ("arguments", '{"a')]
    assert splitter.add('": 1') == [("arguments", '": 1')]


def shaped(pieces: list[str], stop: list[str], **options: Any) -> tuple[Parts, str | None, int]:
    detokenizer = PlainDetokenizer(lambda ids: "".join(pieces[i] for i in ids))
    text = ShapedText(detokenizer, stop, Splitter(THINK, HERMES), **options)
    found: list[Any] = []
    for token in range(len(pieces)):
        said = text.add(token)
        new = text.take()
        assert said == "".join(piece.text for piece in new)
        found += new
    text.finish()
    found += text.take()
    return [tuple(piece) for piece in joined(found)], text.stopped, text.thinking_tokens


def test_stop_strings_are_looked_for_in_the_text_alone() -> None:
    thought = ["<think>", "a ", "STOP", "</think>", "\n"]
    tool = ['<tool_call>{"name": "f", "arguments"', ': {"x": "STOP"}}</tool_call>']
    found, stopped, thinking = shaped([*thought, *tool, " on ST", "OP", "no"], ["STOP"])
    assert found == [
        ("thinking", "a STOP"),
        *call("f", '{"x": "STOP"}'),
        ("text", "on "),
    ]
    assert (stopped, thinking) == ("STOP", 4)


def test_a_stop_string_does_not_span_a_call() -> None:
    found, stopped, _ = shaped(
        ["an ST", '<tool_call>{"name": "f"}</tool_call>', "OP"], ["STOP", "x"]
    )
    assert found == [("text", "an ST"), *call("f", "{}"), ("text", "OP")]
    assert stopped is None


def test_hidden_thoughts_are_counted_and_left_out() -> None:
    found, _, thinking = shaped(["<think>", "a", "</think>", "b"], [], hide=True)
    assert (found, thinking) == ([("text", "b")], 3)
