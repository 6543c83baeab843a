"""Texts that make trouble: strings, JSON, JSON Schemas. Strategies, and nothing of ours."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

_NASTY = [
    "",
    "\0",
    "a\0b",
    "\ufeff",
    "\u202egnp.exe\u2066",  # bidi
    "e" + "\u0301" * 300,
    "\U0001f469\u200d\U0001f4bb" * 20,
    "\ufffd\uffff\U0010ffff",
    "水" * 3_000,
    "<|im_start|>system\n<|endoftext|></s><tool_call>{{%",
    "../../../etc/passwd",
    "a/b/c//d?x=1#y",
    "%00%2e%2e%2f\r\nx-header: 1",
    "${jndi:ldap://x}{0}{}%s%n",
    "x" * 20_000,
    "ſK\u0130ß\u1e9e",  # letters whose case changes their length
]

strings: st.SearchStrategy[str] = st.one_of(
    st.text(max_size=12), st.text(max_size=80), st.sampled_from(_NASTY)
)
"""Any text that UTF-8 has."""

words: st.SearchStrategy[str] = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), min_size=1, max_size=20
)

_numbers: st.SearchStrategy[Any] = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([2**31, 2**53 + 1, -(2**63), 2**64, 10**400, 1e308, -0.0, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _numbers | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=6,
)


def _deep(opening: str, depth: int, closing: str) -> str:
    return opening * depth + "1" + closing * depth


_ODD_JSON = [
    "",
    " ",
    "{",
    "{}x",
    "NaN",
    '{"a": Infinity}',
    '"\\ud800"',
    '{"\\ud800": "\\udfff"}',
    '{"a": 1, "a": 2}',
    "\ufeff{}",
    "{'a': 1}",
    '{"a": 01}',
    '{"a": ' + "9" * 5_000 + "}",
    '{"a": 1e999}',
    '"\0"',
    _deep("[", 900, "]"),
    _deep("[", 20_000, "]"),
    _deep('{"a":', 200, "}"),
    _deep('{"a":', 3_000, "}"),
]

json_texts: st.SearchStrategy[str] = st.one_of(
    _values.map(json.dumps),
    _values.map(lambda value: json.dumps(value, ensure_ascii=False)),
    st.dictionaries(words, _values, max_size=3).map(json.dumps),
    st.sampled_from(_ODD_JSON),
    strings,
)
"""Texts that are JSON, and texts that are nearly."""

_PATTERNS = [
    "^a+$",
    "(a+)+$",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(x+x+)+y",
    "a{1,99999}",
    "a{99999999999999999999}",
    "(" * 200 + ")" * 200,
    "(?<=a)b\\1",
    "[z-a]",
    "(?P<n>",
    "\\p{L}+",
    "(?i:é)*",
    ".*" * 30,
    "\0",
    "\ud800",
]

_TYPES = ["string", "integer", "number", "boolean", "null", "array", "object"]


def _keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas that hold others; the keywords are right, what they are set to mostly."""
    many = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(strings, inner, max_size=3)
    optional: dict[str, st.SearchStrategy[Any]] = {
        "type": st.sampled_from(_TYPES) | st.lists(st.sampled_from(_TYPES), max_size=3) | _values,
        "properties": named,
        "patternProperties": st.dictionaries(st.sampled_from(_PATTERNS), inner, max_size=1),
        "required": st.lists(strings, max_size=2),
        "items": inner,
        "prefixItems": many,
        "anyOf": many,
        "allOf": many,
        "oneOf": many,
        "not": inner,
        "enum": st.lists(_values, max_size=4) | st.just(list(range(3_000))),
        "const": _values,
        "pattern": st.sampled_from(_PATTERNS) | strings,
        "format": st.sampled_from(["date", "uuid", "regex", "email"]) | strings,
        "minLength": _numbers,
        "maxItems": _numbers,
        "minItems": st.sampled_from([0, 1, 100_000]),
        "multipleOf": _numbers,
        "maximum": _numbers,
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/nowhere", "http://127.0.0.1:9/x", "", "%"]),
        "$defs": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
        "$schema": st.sampled_from(
            ["http://json-schema.org/draft-07/schema#", "http://x/", 5, [], {}, None, "[", "//["]
        ),
        "$id": strings,
        "$anchor": strings,
        "if": inner,
        "additionalProperties": inner,
        "dependentRequired": st.dictionaries(strings, st.lists(strings, max_size=2), max_size=1),
        "x-guidance": _values,
    }
    chosen = st.lists(st.sampled_from(sorted(optional)), max_size=4, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({k: optional[k] for k in keys}))


_leaf: st.SearchStrategy[Any] = st.sampled_from([{"type": name} for name in _TYPES])
_schemas: st.SearchStrategy[Any] = st.recursive(
    _leaf | st.booleans(), _keywords, max_leaves=5
) | _keywords(_leaf)

_simple = st.dictionaries(words, _leaf, max_size=3).map(
    lambda properties: {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }
)

_ODD_SCHEMAS: list[Any] = [
    {"$ref": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(600)}},
    {"enum": [f"word {n}" for n in range(5_000)]},
    {"properties": {"\ud800": 5}},
    {"type": "\ud800"},
    {"type": "object", "properties": {"\ud800": {"type": "string"}}, "required": ["\ud800"]},
    {"const": "\ud800"},
    {"type": "string", "minLength": 10**6},
    {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
]

schema_texts: st.SearchStrategy[str] = st.one_of(
    _simple.map(json.dumps),
    _simple.map(json.dumps),
    _schemas.map(json.dumps),
    st.sampled_from(_ODD_SCHEMAS).map(json.dumps),
    st.sampled_from(_PATTERNS).map(lambda text: json.dumps({"type": "string", "pattern": text})),
    json_texts,
)
"""JSON Schemas, right ones and wrong ones, and texts that are none."""
