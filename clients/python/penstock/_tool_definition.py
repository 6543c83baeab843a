"""A tool: what the model is told of it, and the function behind it.

`ToolDefinition` holds both, `tool` attaches one to a function. How a signature becomes a JSON
Schema is in `_tool_schema`; calling tools does not belong here.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, Self, TypeAlias, TypeVar, overload

from penstock import v1
from penstock._request import to_json
from penstock._tool_description import described
from penstock._tool_schema import Parameters, documented, parameters_of, parse_docstring

_P = ParamSpec("_P")
_T = TypeVar("_T")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # the contract's


@dataclasses.dataclass(eq=False)
class ToolDefinition:
    """A tool: what the model is told of it, and the function behind it.

    Attributes:
        name: 1 to 64 letters, digits, "_" or "-".
        description: what it does, for the model to read.
        parameters: the arguments' JSON Schema; its type is "object".
        function: what is called; None for a tool that is executed elsewhere.
        tags: labels of the application; the model does not see them.
        when_to_use: told to the model after the description.
        examples: told to the model too: mappings with "description" and "arguments".
        strict: whether providers that can do so hold the model to the schema; None leaves it to
            them.

    Raises:
        ValueError: the name is not such a name.

    Example::

        ToolDefinition("now", "Tells the time.", function=lambda: time.ctime())
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    function: Callable[..., Any] | None = None
    tags: Sequence[str] = ()
    when_to_use: str | None = None
    examples: Sequence[Mapping[str, Any]] = ()
    strict: bool | None = None
    _signature: Parameters | None = dataclasses.field(default=None, init=False, repr=False)
    _is_method: bool = dataclasses.field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_name(self.name)

    @classmethod
    def from_function(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        tags: Sequence[str] = (),
        when_to_use: str | None = None,
        examples: Sequence[Mapping[str, Any]] = (),
        hide_args: Iterable[str] = (),
        strict: bool | None = None,
    ) -> Self:
        """Reads a function's signature and docstring.

        Every parameter needs an annotation that JSON can hold (pydantic's rules), or none, for
        any value. ``**kwargs`` lets the model pass further arguments; ``*args`` stays empty.
        Arguments that a ``functools.partial`` has given already are hidden.

        Args:
            function: a function, coroutine function, bound method or other callable.
            name: default: the function's.
            description: default: the docstring, up to its first section.
            tags: see the class.
            when_to_use: see the class.
            examples: see the class.
            hide_args: parameters that the model neither sees nor sets; they keep their defaults.
            strict: see the class.

        Raises:
            TypeError: the signature cannot be told to a model; the text names the parameter.
            ValueError: the name is not a tool's name.

        Example::

            ToolDefinition.from_function(len_in_words, name="count", hide_args=["language"])
        """
        if isinstance(function, classmethod | staticmethod):
            raise TypeError("put @tool beneath @classmethod or @staticmethod, not above")
        if description is None:
            description = parse_docstring(documented(function).__doc__ or "").description
        definition = cls(
            _name_of(function) if name is None else name,
            description,
            function=function,
            tags=tuple(tags),
            when_to_use=when_to_use,
            examples=tuple(examples),
            strict=strict,
        )
        definition._is_method = _is_method(function)
        definition._signature = parameters_of(
            function, definition.name, hide=tuple(hide_args), is_method=definition._is_method
        )
        definition.parameters = definition._signature.schema
        return definition

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A tool from a description: as `to_dict` makes it, or in OpenAI's or AbstractCore's shape.

        Args:
            data: name, description, parameters and what else the class has; or all of that under
                ``function``, beside a type. ``parameters`` is a JSON Schema, also as JSON text, or
                maps arguments to theirs; in the latter case ``required_args`` names those that the
                model has to give (default: those without a default).

        Raises:
            ValueError: a key that tools do not have, a name that is none, or parameters that are
                no JSON object.

        Example::

            ToolDefinition.from_dict({"name": "now", "description": "Tells the time."})
        """
        return cls(**described(data))

    def to_dict(self) -> dict[str, Any]:
        """What the tool is, without its function; only what is set, ready for `json.dumps`."""
        fields = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "when_to_use": self.when_to_use,
            "tags": list(self.tags) or None,
            "examples": [dict(example) for example in self.examples] or None,
            "strict": self.strict,
        }
        return {key: value for key, value in fields.items() if value is not None}

    def to_proto(self) -> v1.Tool:
        """What the model is told, for the ``tools=`` of a request.

        Example::

            client.generate("Weather in Oslo?", tools=[weather.tool_definition.to_proto()])
        """
        told = [self.description] if self.description else []
        if self.when_to_use:
            told.append(f"When to use: {self.when_to_use}")
        if self.examples:
            told.append("Examples:\n" + "\n".join(_example(each) for each in self.examples))
        return v1.Tool(
            name=self.name,
            description="\n\n".join(told),
            parameters=to_json(self.parameters),
            strict=self.strict,
        )

    def bind(self, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
        """Checks a call's arguments, and makes of them what the function's annotations ask for.

        Raises:
            ValueError: they do not fit; the text names every bad argument.
            TypeError: the function cannot be called by name and arguments.
        """
        if self._is_method:
            raise TypeError(f"tool {self.name!r} is a method: give it bound, as obj.{self.name}")
        return self._read().bind(arguments)

    def _read(self) -> Parameters:
        if self._signature is None:
            if self.function is None:
                raise TypeError(f"tool {self.name!r} has no function to call")
            self._signature = parameters_of(self.function, self.name)
        return self._signature

    def _bound(self, method: Callable[..., Any]) -> ToolDefinition:
        """The tool of a class as the tool of one object."""
        bound = copy.copy(self)
        bound.function = method
        bound._is_method = False
        if bound._signature is not None:
            bound._signature = bound._signature._replace(signature=inspect.signature(method))
        return bound


Tool: TypeAlias = Callable[..., Any] | ToolDefinition
"""What is taken for a tool: a `ToolDefinition`, a function with `tool`, or any other function."""

Tools: TypeAlias = Iterable[Tool] | Mapping[str, Tool]
"""Tools; a mapping gives each the name it is called by."""


@overload
def tool(function: Callable[_P, _T], /) -> Callable[_P, _T]: ...
@overload
def tool(
    function: Callable[_P, _T],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    tags: Sequence[str] = (),
    when_to_use: str | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
    hide_args: Iterable[str] = (),
    strict: bool | None = None,
) -> Callable[_P, _T]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    tags: Sequence[str] = (),
    when_to_use: str | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
    hide_args: Iterable[str] = (),
    strict: bool | None = None,
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...
def tool(function: Any = None, /, **options: Any) -> Any:
    """Makes a function a tool. It stays the function it was.

    Its ``tool_definition`` (also ``_tool_definition``) and ``tool_name`` tell the rest. Options
    and errors are those of `ToolDefinition.from_function`. It works on methods, too: give
    ``obj.method`` as the tool.

    Example::

        @tool(name="add", hide_args=["trace"])
        def plus(a: int, b: int, trace: bool = False) -> int:
            '''Adds two numbers.'''
            return a + b
    """
    if function is None:
        return functools.partial(_attach, **options)
    return _attach(function, **options)


def _attach(function: Any, **options: Any) -> Any:
    definition = ToolDefinition.from_function(function, **options)
    try:
        function.tool_definition = function._tool_definition = definition
        function.tool_name = definition.name
    except AttributeError:
        raise TypeError(
            f"tool: {function!r} takes no attributes: use ToolDefinition.from_function"
        ) from None
    return function


def definition_of(tool: Tool | Mapping[str, Any], name: str | None = None) -> ToolDefinition:
    """The definition of anything that is taken for a tool.

    Args:
        tool: a definition, a description (see `ToolDefinition.from_dict`), a function with
            `tool`, or any other function.
        name: of a function that has none of its own, such as a lambda.

    Raises:
        TypeError: it is none, or its signature cannot be told to a model.
        ValueError: it has no name that a tool can have.

    Example::

        definition_of(weather).to_proto()
    """
    if isinstance(tool, ToolDefinition):
        return tool
    if isinstance(tool, Mapping):
        return ToolDefinition.from_dict(tool)
    attached = _attached(tool)
    if attached is not None:
        return attached._bound(tool) if inspect.ismethod(tool) else attached
    if not callable(tool):
        raise TypeError(f"{tool!r} is no tool: give a function or a ToolDefinition")
    return ToolDefinition.from_function(tool, name=name)


def by_name(tools: Tools) -> dict[str, Tool]:
    """Tools by the names that a model calls them by. No signature is read yet.

    Raises:
        TypeError: one is no tool, or a method that is not bound to an object.
        ValueError: a name is not a tool's name, or two tools have the same.
    """
    if isinstance(tools, Mapping):
        found = dict(tools)
    else:
        found = {}
        for tool in tools:
            name = _called(tool)
            if found.setdefault(name, tool) != tool:
                raise ValueError(f"two tools are called {name!r}")
    for name, tool in found.items():
        _check_name(name)
        if not isinstance(tool, ToolDefinition) and not callable(tool):
            raise TypeError(f"{tool!r} is no tool: give a function or a ToolDefinition")
        attached = _attached(tool)
        if attached is not None and attached._is_method and not inspect.ismethod(tool):
            raise TypeError(f"tool {name!r} is a method: give it bound, as obj.{name}")
    return found


def is_ready(tool: Tool) -> bool:
    """Whether its signature was read already, which takes a moment."""
    attached = _attached(tool)
    return attached is not None and attached._signature is not None


def _attached(tool: Tool) -> ToolDefinition | None:
    if isinstance(tool, ToolDefinition):
        return tool
    attached = getattr(tool, "tool_definition", None)
    return attached if isinstance(attached, ToolDefinition) else None


def _called(tool: Tool) -> str:
    attached = _attached(tool)
    return _name_of(tool) if attached is None else attached.name


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f'tool name {name!r}: give 1 to 64 letters, digits, "_" or "-" (name=…)')


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name: str = getattr(function, "__name__", type(function).__name__)
    return name


def _is_method(function: Any) -> bool:
    """Whether it is a method as its class body sees it, with the object still to come."""
    owner = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not inspect.isfunction(function) or not owner or owner.endswith("<locals>"):
        return False
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and first.name in ("self", "cls") and first.annotation is first.empty


def _example(example: Mapping[str, Any]) -> str:
    arguments = json.dumps(example.get("arguments", {}), ensure_ascii=False, default=str)
    description = example.get("description")
    return f"- {description}: {arguments}" if description else f"- {arguments}"
