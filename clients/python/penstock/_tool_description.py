"""Tools as dicts: OpenAI's shape, AbstractCore's, or our own -> what a `ToolDefinition` has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_KEYS = {"name", "description", "parameters", "tags", "when_to_use", "examples", "strict"}


def described(data: Mapping[str, Any]) -> dict[str, Any]:
    """See `ToolDefinition.from_dict`."""
    told = data.get("function", data)  # OpenAI has it one level down
    if not isinstance(told, Mapping):
        raise ValueError("tools: function is no description of a tool")
    name = told.get("name")
    if unknown := told.keys() - _KEYS - {"required_args", "type"}:
        raise ValueError(f"tool {name!r}: there is no {', '.join(sorted(unknown))}")
    found = {"name": ""} | {key: told[key] for key in _KEYS if told.get(key) is not None}
    if "parameters" in found:
        found["parameters"] = _schema(name, found["parameters"], told.get("required_args"))
    return found


_OF_SCHEMAS = ("properties", "$ref", "anyOf", "oneOf", "allOf")


def _schema(name: Any, parameters: Any, required: Any) -> dict[str, Any]:
    """The JSON Schema of a tool's arguments, from one or from the arguments by name."""
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters or "{}")
        except ValueError as error:
            raise ValueError(f"tool {name!r}: parameters: no JSON: {error}") from error
    if not isinstance(parameters, Mapping):
        raise ValueError(f"tool {name!r}: parameters: no JSON object")
    if isinstance(parameters.get("type"), str) or any(key in parameters for key in _OF_SCHEMAS):
        return dict(parameters)
    if not all(isinstance(each, Mapping) for each in parameters.values()):
        raise ValueError(f"tool {name!r}: parameters: neither a JSON Schema nor arguments by name")
    if required is None:
        required = [key for key, each in parameters.items() if "default" not in each]
    return {"type": "object", "properties": dict(parameters), "required": list(required)}
