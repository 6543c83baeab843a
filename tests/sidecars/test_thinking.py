"""Thoughts: what is asked of the template, where they begin and end, and their budget."""

from __future__ import annotations

import json

import pytest
from google.protobuf.struct_pb2 import Struct
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local import prompt, thinking
from penstock_server.local.engine import Loaded
from penstock_server.local.job import END_OF_SEQUENCE, Job
from penstock_server.local.text import Piece, joined

from tests.sidecars import chat_templates
from tests.sidecars.writing import allowed, draw, loaded

NONE, LOW = v1.ThinkingOptions.EFFORT_NONE, v1.ThinkingOptions.EFFORT_LOW
MAX = v1.ThinkingOptions.EFFORT_MAX

MODELS = {
    "qwen": chat_templates.qwen,
    "r1": chat_templates.r1,
    "r1_in_letters": chat_templates.r1_in_letters,
}


def known(model: str) -> Loaded:
    return loaded(MODELS[model]())


def question(**options: object) -> v1.GenerateRequest:
    return v1.GenerateRequest(prompt="Hi", thinking=v1.ThinkingOptions(**options))  # type: ignore[arg-type]


def write(job: Job, text: str, it: Loaded) -> list[Piece]:
    """What the model's writing this means; every token has to be allowed."""
    pieces: list[Piece] = []
    for token in it.tokenizer.encode_part(text):
        if job.constraint is not None:
            may = allowed(job.constraint, it.vocabulary)
            assert may is None or token in may
        pieces += job.accept(token).parts
    return joined(pieces)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_thinks(model: str) -> None:
    it = known(model)
    assert v1.CAPABILITY_THINKING in it.abilities.capabilities
    job = prompt.make_job(question(), it)
    text = "Hm.\n</think>\n\nYes." if model != "qwen" else "<think>\nHm.\n</think>\n\nYes."
    pieces = write(job, text, it)
    assert pieces == [("thinking", "Hm."), ("text", "Yes.")]
    thought = it.tokenizer.encode_part(text.partition("\n\n")[0])
    # White space may be part of the tag's last token.
    assert abs(job.thinking_tokens - len(thought)) <= (6 if model == "r1_in_letters" else 0)
    assert job.thinking_tokens < job.written


def test_the_switch_and_the_effort_are_told_to_the_template() -> None:
    effort = thinking.variables(v1.ThinkingOptions(effort=MAX), "{{ reasoning_effort }}")
    assert effort == {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}
    assert thinking.variables(v1.ThinkingOptions(effort=NONE), "") == {
        "enable_thinking": False,
        "thinking": False,
    }
    assert thinking.variables(v1.ThinkingOptions(include=True), "") == {}


def test_a_template_that_writes_an_empty_thought_leaves_none_to_come() -> None:
    it = known("qwen")
    job = prompt.make_job(question(effort=NONE), it)
    assert job.constraint is None
    tokens = it.tokenizer.encode_part("Is <think> a tag?")
    assert "".join(job.accept(token).text for token in tokens) == "Is <think> a tag?"
    assert job.thinking_tokens == 0


@pytest.mark.parametrize(
    "options", [{"effort": LOW}, {"budget_tokens": 9}, {"effort": MAX, "include": True}]
)
def test_a_model_that_does_not_think(options: dict[str, object]) -> None:
    it = loaded(chat_templates.untaught())
    assert v1.CAPABILITY_THINKING not in it.abilities.capabilities
    with pytest.raises(Failure) as caught:
        prompt.make_job(question(**options), it)
    assert caught.value.reason == v1.ERROR_REASON_UNSUPPORTED_FEATURE
    assert caught.value.metadata["feature"] == "thinking"
    for harmless in ({"effort": NONE}, {"include": False}, {}):
        prompt.make_job(question(**harmless), it)


@pytest.mark.parametrize("model", ["r1", "r1_in_letters"])
@pytest.mark.parametrize("budget", [1, 5])
def test_a_budget_ends_the_thought(model: str, budget: int) -> None:
    it = known(model)
    job = prompt.make_job(question(budget_tokens=budget), it)
    letter = it.tokenizer.encode_part("x")
    pieces: list[Piece] = []
    for _ in range(budget):
        assert job.constraint is not None
        assert allowed(job.constraint, it.vocabulary) is None
        pieces += job.accept(letter[0]).parts
    for forced in it.tokenizer.encode_part("</think>"):
        may = allowed(job.constraint, it.vocabulary) if job.constraint else None
        assert may is not None
        assert may.tolist() == [forced]
        pieces += job.accept(forced).parts
    assert job.constraint is not None
    assert allowed(job.constraint, it.vocabulary) is None
    pieces += write(job, " Yes", it)
    assert joined(pieces) == [("thinking", "x" * budget), ("text", "Yes")]
    assert job.thinking_tokens == budget + len(it.tokenizer.encode_part("</think>"))


def test_a_model_that_thinks_unasked_is_made_to_stop_at_once() -> None:
    it = known("r1")
    job = prompt.make_job(question(effort=NONE), it)
    assert job.constraint is not None
    may = allowed(job.constraint, it.vocabulary)
    assert may is not None
    assert may.tolist() == it.tokenizer.encode_part("</think>")
    assert write(job, "</think>Yes.", it) == [("text", "Yes.")]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("budget", [None, 6])
def test_a_form_is_held_to_after_the_thought(model: str, budget: int | None) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", 1]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    request = v1.GenerateRequest(
        prompt="Hi",
        response_format=v1.ResponseFormat(
            json_schema=v1.JsonSchemaFormat(schema=json.dumps(schema))
        ),
        thinking=v1.ThinkingOptions(budget_tokens=budget) if budget else None,
    )
    it = known(model)
    opening = "<think>" if model == "qwen" else ""
    ways = set()
    for seed in range(6):
        job = prompt.make_job(request, it)
        if budget is None:
            pieces = write(job, f'{opening}"{{Hm."</think>\n', it)
        else:
            pieces = write(job, f"{opening}Hm.", it)
        chunks = draw(job, it.vocabulary, seed)
        assert chunks[-1].finish is END_OF_SEQUENCE
        pieces = joined([*pieces, *(piece for chunk in chunks for piece in chunk.parts)])
        assert [piece.kind for piece in pieces] == ["thinking", "text"]
        ways.add(pieces[1].text)
    assert ways == {'{"a":"x"}', '{"a":1}'}


def test_a_form_without_a_thought() -> None:
    it = known("qwen")
    form = v1.ResponseFormat(json_object=v1.JsonObjectFormat())
    request = v1.GenerateRequest(prompt="Hi", response_format=form)
    free = prompt.make_job(request, it)
    assert free.constraint is not None
    may = allowed(free.constraint, it.vocabulary)
    assert may is not None
    assert set(it.tokenizer.encode_part("<think>")) < set(may.tolist())
    request.thinking.effort = NONE
    held = prompt.make_job(request, it)
    assert held.constraint is not None
    may = allowed(held.constraint, it.vocabulary)
    assert may is not None
    assert not set(it.tokenizer.encode_part("<think>")) & set(may.tolist())


def test_the_callers_own_variables_go_first() -> None:
    options = Struct()
    options["chat_template_kwargs"] = {"enable_thinking": False}
    request = question(effort=LOW)
    request.provider_options.CopyFrom(options)
    tokens = prompt.make_job(request, known("qwen")).prompt
    assert known("qwen").tokenizer.ending(tokens).endswith("</think>\n\n")
