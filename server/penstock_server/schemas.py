"""Is a text a JSON Schema? Judged by the schemas' own schema, at a price that callers cannot raise.

What a provider makes of a schema, and which keywords it knows, is the provider's. So are regular
expressions: Python's are another dialect than a schema's, and compiling them has no bound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY

Json = dict[str, Any]

# Texts up to so many characters are remembered, with what was wrong: callers send the same tools
# again and again.
_REMEMBERED = 32 * 1024


def problem(text: str) -> str:
    """What is wrong with a schema; "" where nothing is.

    Example: ``problem('{"type": 5}')`` is ``'is not a valid JSON Schema: at /type: 5 is not …'``.
    """
    return _remembered(text) if len(text) <= _REMEMBERED else _problem(text)


@lru_cache(maxsize=512)
def _remembered(text: str) -> str:
    return _problem(text)


def _problem(text: str) -> str:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    if not isinstance(schema, dict):
        return "must be a JSON object that holds a JSON Schema"
    try:
        judge = _judge(schema.get("$schema"))
    except ValueError:
        return "is not a valid JSON Schema: at /$schema: is not a URI"
    try:
        for wrong in judge.iter_errors(schema):
            where = "".join(f"/{step}" for step in wrong.absolute_path) or "/"
            return f"is not a valid JSON Schema: at {where}: {wrong.message[:200]}"
    except RecursionError:
        return "is nested too deeply"
    return ""


def _judge(named: object) -> Validator:
    """What judges schemas of the version of JSON Schema that one says it is written in."""
    if named is not None and not isinstance(named, str):
        raise ValueError(named)
    kind = validator_for({"$schema": named or ""}, default=Draft202012Validator)
    if kind is Draft202012Validator:
        return _current()
    # No format checker: expressions are not compiled.
    return validator_for(kind.META_SCHEMA, default=kind)(kind.META_SCHEMA)


@cache
def _current() -> Validator:
    """For draft 2020-12: its meta-schema, put together from its vocabularies.

    Takes a quarter of the time, since where to look next has not to be found out at every step.
    """
    top: Mapping[str, Any] = Draft202012Validator.META_SCHEMA
    whole: Json = {"$schema": top["$schema"], "type": top["type"], "$defs": {}, "properties": {}}
    base = top["$id"].rpartition("/")[0]
    for piece in (top, *(REGISTRY.contents(f"{base}/{one['$ref']}") for one in top["allOf"])):
        whole["$defs"] |= _joined(piece.get("$defs", {}))
        whole["properties"] |= _joined(piece["properties"])
    return Draft202012Validator(whole)


def _joined(piece: Any) -> Any:
    """A part of a vocabulary, with references into the whole."""
    if isinstance(piece, list):
        return [_joined(inner) for inner in piece]
    if not isinstance(piece, dict):
        return piece
    if isinstance(piece.get("$dynamicRef"), str):  # and not a keyword's own schema
        return {"$ref": "#"}
    joined = {key: _joined(value) for key, value in piece.items()}
    if isinstance(reference := piece.get("$ref"), str):
        joined["$ref"] = f"#{reference.partition('#')[2]}"
    return joined
