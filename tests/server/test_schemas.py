"""Which texts are JSON Schemas: told at once, whatever the text is, and at a bounded price."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError
from penstock_server import schemas

from tests.fuzz.texts import schema_texts

# A schema → where it is wrong, "" where it is right.
CASES: list[tuple[dict[str, Any], str]] = [
    ({"type": "object", "properties": {"a": {"type": "objct"}}}, "/properties/a/type"),
    ({"properties": {"$ref": {"type": "string"}, "$dynamicRef": {}}}, ""),
    ({"$ref": "#", "$defs": {"a": {"$ref": "#/$defs/a"}}}, ""),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{}]}, ""),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "items": 5}, "/items"),
    ({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": [{}]}, "/items"),
    ({"$schema": "http://example.com/mine", "minimum": "x"}, "/minimum"),
    ({"$schema": 5}, "/$schema"),
    ({"$schema": []}, "/$schema"),
    ({"$schema": {}}, "/$schema"),
    ({"$schema": "http://["}, "/$schema"),
    # What is right in the schemas' own dialect may be wrong in Python's.
    ({"pattern": r"^\p{L}+$"}, ""),
    ({"pattern": "a{99999999999999999999}"}, ""),
    ({"patternProperties": {"(" * 5_000 + ")" * 5_000: {}}}, ""),
    ({"pattern": 5}, "/pattern"),
    ({"properties": {"\ud800": 5}}, "/properties/\ud800"),
]


@pytest.mark.parametrize(("schema", "wrong"), CASES)
def test_what_is_wrong_is_told(schema: dict[str, Any], wrong: str) -> None:
    problem = schemas.problem(json.dumps(schema))
    assert problem.startswith(f"is not a valid JSON Schema: at {wrong}:") if wrong else not problem


def test_texts_that_are_none() -> None:
    assert schemas.problem("{").startswith("is not JSON")
    assert schemas.problem("9" * 5_000).startswith("is not JSON")
    assert schemas.problem("[" * 100_000).startswith("is not JSON")
    assert schemas.problem("[]").startswith("must be a JSON object")
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"not": deep}
    assert schemas.problem(json.dumps(deep)) == "is nested too deeply"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema_texts)
def test_they_are_judged_as_by_the_specification(text: str) -> None:
    problem = schemas.problem(text)
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(schema, dict) or "$schema" in schema or problem == "is nested too deeply":
        return
    try:
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(formats=()))
    except SchemaError:
        assert problem
    else:
        assert not problem


def test_a_large_schema_is_judged_soon(report: Callable[[str], None]) -> None:
    names = {f"name_{number}": {"type": "string"} for number in range(3_000)}
    text = json.dumps({"type": "object", "properties": names})
    started = time.perf_counter()
    assert not schemas.problem(text)
    took = time.perf_counter() - started
    report(f"3,000 properties in {took * 1000:.0f} ms")
    assert took < 1.5  # by the specification's own vocabularies it is 9 times as long
