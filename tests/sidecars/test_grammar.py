"""Answers held to a form: whatever is drawn of what is allowed is valid, and nothing hangs."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local import prompt
from penstock_server.local.engine import Loaded
from penstock_server.local.grammar import Grammar
from penstock_server.local.job import END_OF_SEQUENCE, MAX_TOKENS
from transformers import PreTrainedTokenizerFast

from tests.sidecars import vocabularies
from tests.sidecars.writing import draw, loaded, text_of

MODEL = loaded(vocabularies.chat_tokenizer(vocabularies.THOUGHTLESS))


def asking(schema: Any = None, tokens: int = 3_000, **more: Any) -> v1.GenerateRequest:
    """A request for JSON: any object, or what is valid for a schema."""
    form = v1.ResponseFormat(json_object=v1.JsonObjectFormat())
    if schema is not None:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        form = v1.ResponseFormat(json_schema=v1.JsonSchemaFormat(schema=text))
    sampling = v1.Sampling(max_output_tokens=tokens)
    return v1.GenerateRequest(prompt="Hi", response_format=form, sampling=sampling, **more)


def written(request: v1.GenerateRequest, seed: int, known: Loaded = MODEL) -> str | None:
    """What comes of drawing uniformly; None where the answer was cut."""
    chunks = draw(prompt.make_job(request, known), known.vocabulary, seed)
    finish = chunks[-1].finish
    assert finish in (END_OF_SEQUENCE, MAX_TOKENS)
    return text_of(chunks) if finish is END_OF_SEQUENCE else None


def random_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema of the kinds that people write."""
    kinds = ["string", "integer", "number", "boolean", "enum", "const", "pattern"]
    kind = rng.choice([*kinds, "object", "array", "anyOf"] if depth else kinds)
    low = rng.randint(-1_000, 1_000)
    deeper = lambda: random_schema(rng, depth - 1)  # noqa: E731 # shorter than a def
    match kind:
        case "string":
            least = rng.randint(0, 3)
            return {"type": kind, "minLength": least, "maxLength": least + rng.randint(0, 5)}
        case "integer":
            return {"type": kind, "minimum": low, "maximum": low + rng.randint(0, 5_000)}
        case "number":
            return {"type": kind, "exclusiveMinimum": low, "maximum": low + rng.randint(1, 50)}
        case "enum":
            return {"enum": rng.sample(["red", 'say "hi"', 3, None, True, "é🦊", -1.5], 3)}
        case "const":
            return {"const": rng.choice(["fixed", 42, False])}
        case "pattern":
            return {"type": "string", "pattern": rng.choice([r"^[a-f]{2,4}$", r"^\d{3}-\d{2}$"])}
        case "object":
            names = rng.sample(["a", "b", "name", "größe", "x y"], rng.randint(1, 4))
            return {
                "type": "object",
                "properties": {name: deeper() for name in names},
                "required": rng.sample(names, rng.randint(0, len(names))),
                "additionalProperties": False,
            }
        case "array":
            least = rng.randint(0, 2)
            count = {"minItems": least, "maxItems": least + rng.randint(0, 3)}
            return {"type": "array", "items": deeper(), **count}
        case "anyOf":
            return {"anyOf": [deeper(), deeper()]}
        case _:
            return {"type": kind}


@pytest.mark.parametrize("seed", range(100))
def test_whatever_is_drawn_is_valid(seed: int) -> None:
    schema = random_schema(random.Random(seed))
    text = written(asking(schema), seed)
    assert text is not None, "everything in the schema is bounded"
    Draft202012Validator(schema).validate(json.loads(text))
    assert text == text.strip()


@pytest.mark.parametrize("seed", range(10))
def test_any_json_object(seed: int) -> None:
    text = written(asking(tokens=200), seed)
    if text is not None:  # a random model may write a string forever
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("seed", range(10))
def test_vocabularies_with_byte_fallback(seed: int) -> None:
    known = loaded(vocabularies.sentencepieces())
    schema = random_schema(random.Random(seed))
    text = written(asking(schema), seed, known)
    assert text is not None
    Draft202012Validator(schema).validate(json.loads(text))


def test_a_schema_of_every_reference() -> None:
    schema = {
        "$defs": {"tree": {"type": "object", "properties": {"leaf": {"type": "boolean"}}}},
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/tree"}, "right": {"$ref": "#/$defs/tree"}},
        "required": ["left", "right"],
        "additionalProperties": False,
    }
    text = written(asking(schema), 1)
    if text is not None:
        Draft202012Validator(schema).validate(json.loads(text))


WRONG = v1.ERROR_REASON_INVALID_REQUEST
LACKING = v1.ERROR_REASON_UNSUPPORTED_FEATURE


@pytest.mark.parametrize(
    ("schema", "reason", "said"),
    [
        ({"type": "integer", "minimum": 5, "maximum": 3}, WRONG, "greater than maximum"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, WRONG, "greater than maxLength"),
        ({"enum": []}, WRONG, "empty"),
        ({"$ref": "#/nowhere"}, WRONG, "nowhere"),
        ({"type": "array", "uniqueItems": True}, LACKING, "uniqueItems"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, LACKING, "not"),
        ({"type": "string", "pattern": "(?=a)b"}, LACKING, "look-a"),
        ({"type": "string", "format": "phone"}, LACKING, "phone"),
    ],
)
def test_schemas_that_cannot_be_held_to(schema: Any, reason: int, said: str) -> None:
    with pytest.raises(Failure) as caught:
        prompt.make_job(asking(schema), MODEL)
    failure = caught.value
    assert failure.reason == reason
    assert said in failure.message
    named = failure.metadata.get("feature") or failure.violations[0].field
    assert named == "response_format.json_schema.schema"


def test_who_does_not_insist_gets_json_at_least() -> None:
    request = asking({"type": "array", "uniqueItems": True}, tokens=200)
    request.response_format.json_schema.strict = False
    text = written(request, 3)
    assert text is None or isinstance(json.loads(text), dict)


def test_a_vocabulary_that_cannot_be_read() -> None:
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=vocabularies.word_pieces(), eos_token="[UNK]"
    )
    known = loaded(tokenizer)
    known.abilities.prepare()
    assert v1.CAPABILITY_JSON_OBJECT not in known.abilities.capabilities
    with pytest.raises(Failure) as caught:
        prompt.make_job(asking(), known)
    assert caught.value.reason == LACKING
    assert caught.value.metadata["feature"] == "response_format"


def test_a_token_that_may_not_come_fails_this_answer_alone() -> None:
    job, neighbour = (prompt.make_job(asking(), MODEL) for _ in range(2))
    letter = MODEL.tokenizer.encode("x")[0]
    with pytest.raises(Failure) as caught:
        job.accept(letter)
    assert caught.value.reason == v1.ERROR_REASON_ENGINE_FAILURE
    brace = MODEL.tokenizer.encode("{")[0]
    assert neighbour.accept(brace).text == "{"


@pytest.mark.parametrize("words", [-1, 0, 3])
def test_rows_of_another_length(words: int) -> None:
    """A model may have fewer scores than its tokenizer has tokens, and padded ones."""
    grammar = Grammar(MODEL.tokenizer, MODEL.vocabulary, MODEL.end)
    constraint = grammar.constraint("start: " + grammar.json({"const": 7}))
    row = np.full((MODEL.vocabulary + 31) // 32 + words, -1, np.int32)
    assert constraint.fill(row)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    assert np.nonzero(bits)[0].tolist() == MODEL.tokenizer.encode("7")
    constraint.accept(MODEL.tokenizer.encode("7")[0])
    assert constraint.finished
