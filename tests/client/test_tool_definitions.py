"""Tools: what a model is told of a function, and of what else is taken for a tool."""

from __future__ import annotations

import functools
import inspect
import json
import types
from typing import Annotated, Any, Literal

import pytest
from penstock import v1
from penstock.tools import (
    ToolDefinition,
    definition_of,
    tool,
)
from pydantic import Field

from tests.client.calling import Execute, Place, Unit, Window, call

# --- definitions --------------------------------------------------------------------------------


@tool(
    tags=["weather"],
    when_to_use="When asked for the weather.",
    examples=[{"description": "Oslo", "arguments": {"place": {"city": "Oslo"}}}],
    hide_args=["key"],
)
def forecast(
    place: Place,
    window: Window,
    unit: Unit = Unit.CELSIUS,
    style: Literal["short", "long"] = "short",
    stations: list[str] | None = None,
    limits: Annotated[dict[str, float], Field(description="By name.")] = {},  # noqa: B006
    note: str = None,  # type: ignore[assignment]  # noqa: RUF013 - as many people write it
    days: int = Field(3, ge=1),
    key: str = "secret",
) -> tuple[Any, ...]:
    """Tells the weather.

    In some detail.

    Args:
        place: where
            it is.
        stations (list[str], optional): which ones.
        limits: not this text.

    Returns:
        place: not this text either.
    """
    return place, window, unit, style, stations, limits, note, days, key


def test_a_definition() -> None:
    definition: ToolDefinition = forecast.tool_definition  # type: ignore[attr-defined]
    assert forecast._tool_definition is definition  # type: ignore[attr-defined]
    assert forecast.tool_name == definition.name == "forecast"  # type: ignore[attr-defined]
    assert definition.function is forecast
    assert definition.description == "Tells the weather.\n\nIn some detail."
    schema = definition.parameters
    assert schema["type"] == "object"
    assert schema["required"] == ["place", "window"]
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == [
        *("place", "window", "unit", "style", "stations", "limits", "note", "days"),
    ]
    assert schema["properties"]["place"] == {
        "$ref": "#/$defs/Place",
        "description": "where it is.",
    }
    assert schema["$defs"]["Place"]["required"] == ["city"]
    assert schema["$defs"]["Unit"]["enum"] == ["celsius", "kelvin"]
    assert schema["properties"]["style"] == {
        "enum": ["short", "long"],
        "type": "string",
        "default": "short",
    }
    assert schema["properties"]["stations"]["description"] == "which ones."
    assert schema["properties"]["limits"]["description"] == "By name."
    assert schema["properties"]["note"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert schema["properties"]["days"] == {"default": 3, "minimum": 1, "type": "integer"}
    assert "secret" not in json.dumps(definition.to_dict())

    told = definition.to_proto()
    assert told.name == "forecast"
    assert json.loads(told.parameters) == schema
    assert told.description == (
        "Tells the weather.\n\nIn some detail.\n\nWhen to use: When asked for the weather."
        '\n\nExamples:\n- Oslo: {"place": {"city": "Oslo"}}'
    )
    assert not told.HasField("strict")
    assert definition.to_dict() == {
        "name": "forecast",
        "description": definition.description,
        "parameters": schema,
        "when_to_use": "When asked for the weather.",
        "tags": ["weather"],
        "examples": [{"description": "Oslo", "arguments": {"place": {"city": "Oslo"}}}],
    }


async def test_arguments_become_what_the_annotations_say(execute: Execute) -> None:
    arguments = {"place": {"city": "Oslo"}, "window": {"days": "2"}, "unit": "kelvin", "days": "4"}
    one, other = await execute(
        [
            call("forecast", "1", **arguments),
            call("forecast", "2", place={"city": "Bø"}, window={}, note=None),
        ],
        [forecast],
    )
    place, window = Place(city="Oslo"), Window(2)
    assert one["result"] == (place, window, Unit.KELVIN, "short", None, {}, None, 4, "secret")
    assert other["result"][-3:] == (None, 3, "secret")


def test_a_tool_stays_a_function() -> None:
    @tool
    def add(a: int, b: int = 2) -> int:
        """Adds.

        :param a: one
            number
        :param int b: the other
        :returns: a: nothing
        """
        return a + b

    @tool(name="other_name", description="Other.", strict=True)
    async def other() -> None:
        """Not told."""

    assert add(1) == 3
    definition = definition_of(add)
    assert definition.description == "Adds."
    assert definition.parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "one number"},
            "b": {"type": "integer", "default": 2, "description": "the other"},
        },
        "required": ["a"],
        "additionalProperties": False,
    }
    assert inspect.iscoroutinefunction(other)
    assert definition_of(other).to_proto() == v1.Tool(
        name="other_name",
        description="Other.",
        parameters='{"type":"object","properties":{},"additionalProperties":false}',
        strict=True,
    )


def test_signatures_that_cannot_be_told() -> None:
    def opaque(city: str, lock: types.FrameType) -> None: ...
    def unresolved(city: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def required(city: str, key: str) -> None: ...

    with pytest.raises(TypeError, match=r"tool 'opaque'.*parameter 'lock'.*hide_args"):
        tool(opaque)
    with pytest.raises(TypeError, match="'NoSuchName' of parameter 'city' cannot be resolved"):
        tool(unresolved)
    with pytest.raises(TypeError, match="'key' needs a default"):
        tool(required, hide_args=["key"])
    with pytest.raises(TypeError, match="no parameter 'kye'"):
        tool(required, hide_args=["kye"])
    with pytest.raises(TypeError, match="beneath"):
        tool(staticmethod(required))
    with pytest.raises(TypeError, match="no signature"):
        ToolDefinition.from_function(dict)
    with pytest.raises(ValueError, match="name=…"):
        tool(lambda: 1)
    with pytest.raises(ValueError, match="'a b'"):
        ToolDefinition("a b")


class Counter:
    def __init__(self) -> None:
        self.total = 0

    @tool(hide_args=["key"])
    def add(self, n: int, key: str = "k") -> int:
        """Adds."""
        self.total += n
        return self.total

    @tool
    async def total_later(self) -> int:
        return self.total

    @classmethod
    @tool
    def name_of_class(cls, suffix: str) -> str:
        return cls.__name__ + suffix

    @staticmethod
    @tool
    def static(n: int) -> int:
        return n

    def plain(self, n: int) -> int:
        return self.total + n


async def test_methods(execute: Execute) -> None:
    one, other = Counter(), Counter()
    assert list(definition_of(one.add).parameters["properties"]) == ["n"]
    calls = [call("add", n=2), call("name_of_class", suffix="!"), call("static", n=4)]
    methods = [one.add, Counter.name_of_class, Counter.static, one.total_later, one.plain]
    results = await execute(calls, methods)
    assert [result["result"] for result in results] == [2, "Counter!", 4]
    results = await execute([call("total_later"), call("plain", n=1)], methods)
    assert [result["result"] for result in results] == [2, 3]
    assert other.total == 0
    [refused] = await execute([call("add", n=2, key="mine")], methods)
    assert refused["error"] == "invalid arguments: key: no such argument"
    with pytest.raises(TypeError, match=r"'add' is a method: give it bound, as obj.add"):
        await execute([], [Counter.add])


async def test_unusual_parameters(execute: Execute) -> None:
    def positional(a: int, b: int = 2, /, c=3, *args: int, d: int = 4) -> Any:  # type: ignore[no-untyped-def]
        return a, b, c, args, d

    def open_ended(json: int, model_config: int = 1, **more: Any) -> Any:
        return json, model_config, more

    def careful(n: int = 0, key: str = "mine", **more: Any) -> Any:
        return n, key, more

    partial = functools.partial(open_ended, model_config=5)
    tools = {
        "positional": positional,
        "open_ended": open_ended,
        "careful": tool(careful, hide_args=["key"]),
        "partial": partial,
        "twice": lambda n: 2 * n,
    }
    results = await execute(
        [
            call("positional", a="1", c=[1]),
            call("positional", a=1, d=5, b=3),
            call("open_ended", json=1, other="x"),
            call("careful", n=1, key="stolen"),
            call("partial", json=2),
            call("partial", json=2, model_config=6),
            call("twice", n="ab"),
        ],
        tools,
    )
    assert [result.get("result", result.get("error")) for result in results] == [
        (1, 2, [1], (), 4),
        (1, 3, 3, (), 5),
        (1, 1, {"other": "x"}),
        "invalid arguments: key: no such argument",
        (2, 5, {}),
        "invalid arguments: model_config: no such argument",
        "abab",
    ]
    assert "model_config" not in ToolDefinition.from_function(partial, name="p").parameters
