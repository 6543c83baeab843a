"""A function's signature -> what a model is told of it, and the model's arguments -> a call.

pydantic makes the JSON Schema and checks arguments against the annotations. It is imported on
demand, for it takes longer than all of our own imports. Calling functions does not belong here.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

if typing.TYPE_CHECKING:
    from pydantic import BaseModel

_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Params|Keyword Args|Returns?|Yields?|Raises|Examples?|Notes?"
    r"|Warnings?|See Also|Attributes|Todo)::?\s*$"
)
_ARGUMENTS = re.compile(r"(Args|Arguments|Parameters|Params|Keyword Args):\s*$")
_GOOGLE = re.compile(r"(\s+)\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:\s*(.*)$")
_SPHINX = re.compile(r":(?:param|parameter|arg|argument)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)$")

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class InvalidArgumentsError(ValueError):
    """What the model wrote does not fit the function; the text names every bad argument."""


class Docstring(NamedTuple):
    """What a docstring says: of the function, and of each parameter by name."""

    description: str
    parameters: dict[str, str]


class Parameters(NamedTuple):
    """A function's parameters: for the model a JSON Schema, and for us a way to call it."""

    schema: dict[str, Any]
    signature: inspect.Signature
    hidden: frozenset[str]
    model: type[BaseModel]
    fields: dict[str, str]  # our field of the model -> parameter; pydantic takes not every name

    def bind(self, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
        """Checks arguments, and makes of them what the annotations ask for.

        Raises:
            InvalidArgumentsError: they do not fit.
        """
        from pydantic import ValidationError

        problems = [f"{name}: no such argument" for name in arguments if name in self.hidden]
        try:
            checked = self.model.model_validate(dict(arguments))
        except ValidationError as error:
            problems += [
                f"{_path(problem['loc'])}: {_problem(problem)}"
                for problem in error.errors(include_url=False, include_input=False)
                if problem["loc"][:1] not in [(name,) for name in self.hidden]
            ]
        if problems:
            raise InvalidArgumentsError(f"invalid arguments: {'; '.join(problems)}")

        values: dict[str, Any] = {}
        for field, name in self.fields.items():
            default = self.signature.parameters[name].default
            # The function's own defaults apply, except those that only pydantic understands.
            if field in checked.model_fields_set or _is_field(default):
                values[name] = getattr(checked, field)
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                values[parameter.name] = checked.model_extra or {}
            elif parameter.kind is parameter.POSITIONAL_ONLY:  # no gap before a later one
                values.setdefault(parameter.name, parameter.default)
        return inspect.BoundArguments(self.signature, typing.cast(Any, values))


def parameters_of(
    function: Callable[..., Any], name: str, *, hide: Collection[str] = (), is_method: bool = False
) -> Parameters:
    """Reads a function's signature.

    Args:
        function: what is called in the end.
        name: the tool's, for errors.
        hide: parameters that the model does not see.
        is_method: whether the first parameter is the object, which is not bound yet.

    Raises:
        TypeError: no JSON Schema describes it; the text says why and what to do.
    """
    from pydantic import Field

    where = f"tool {name!r}"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where}: {function!r} has no signature that can be read") from error
    parameters = list(signature.parameters.values())[1 if is_method else 0 :]
    hidden = frozenset(hide)
    if isinstance(function, functools.partial):
        hidden |= function.keywords.keys()  # given already, perhaps a secret
    for hidden_name in hidden:
        parameter = signature.parameters.get(hidden_name)
        if parameter is None or parameter.kind in _VARIADIC:
            raise TypeError(f"{where}: hide_args: there is no parameter {hidden_name!r}")
        if parameter.default is parameter.empty:
            raise TypeError(f"{where}: hide_args: {hidden_name!r} needs a default")

    told = [each for each in parameters if each.name not in hidden and each.kind not in _VARIADIC]
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters)
    definitions: dict[str, Any] = {}
    fields: dict[str, str] = {}
    for index, parameter in enumerate(told):
        annotation = _annotation(function, parameter, where)
        default = ... if parameter.default is parameter.empty else parameter.default
        if _is_field(default):  # def f(days: int = Field(3, ge=1))
            annotation, default = typing.cast(Any, typing.Annotated[annotation, default]), None
            info = Field(alias=parameter.name)
        else:
            if default is None:  # def f(city: str = None) is common, and models write null
                annotation = typing.cast(Any, annotation | None)
            info = Field(default, alias=parameter.name)
        fields[f"p{index}"] = parameter.name
        definitions[f"p{index}"] = (annotation, info)
    try:
        model, schema = _build(name, definitions, open_ended)
    except Exception:
        _blame(where, definitions, fields)
        raise
    described = parse_docstring(documented(function).__doc__ or "").parameters
    for told_name, told_schema in schema["properties"].items():
        if told_name in described:
            told_schema.setdefault("description", described[told_name])
    return Parameters(schema, signature, hidden, model, fields)


def parse_docstring(text: str) -> Docstring:
    """Reads a docstring: Google's ``Args:``, or Sphinx's ``:param name:``.

    Example::

        parse_docstring("Adds.\\n\\nArgs:\\n    a: a number.") == ("Adds.", {"a": "a number."})
    """
    description: list[str] = []
    parameters: dict[str, list[str]] = {}
    section, current, indent = "", None, ""
    for line in inspect.cleandoc(text).splitlines():
        sphinx = _SPHINX.match(line)
        if sphinx is not None:
            section, indent = "Args", ""
            current = parameters[sphinx[1]] = [sphinx[2]]
        elif _SECTION.match(line) or re.match(r":\w+[^:]*:", line):
            section, current, indent = "Args" if _ARGUMENTS.match(line) else "other", None, ""
        elif not section:
            description.append(line)
        elif section == "Args":
            google = _GOOGLE.match(line)
            if google is not None and (not indent or google[1] == indent):
                indent = google[1]
                current = parameters[google[2]] = [google[3]]
            elif current is not None:
                current.append(line.strip())
    told = {name: " ".join(lines).strip() for name, lines in parameters.items()}
    return Docstring("\n".join(description).strip(), told)


def documented(function: Callable[..., Any]) -> Any:
    """The function that was written down: of a ``functools.partial``, what it completes."""
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    return inner


def _build(
    name: str, definitions: dict[str, Any], open_ended: bool
) -> tuple[type[BaseModel], dict[str, Any]]:
    from pydantic import ConfigDict, create_model
    from pydantic.json_schema import GenerateJsonSchema

    class WithoutTitles(GenerateJsonSchema):  # which only repeat the names, for tokens
        def emit_warning(self, kind: Any, detail: str) -> None:
            pass  # a default that JSON cannot hold is left out, which is what we want

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

    config = ConfigDict(extra="allow" if open_ended else "forbid")
    model = create_model(name, __config__=config, **definitions)
    schema = model.model_json_schema(schema_generator=WithoutTitles)
    schema.pop("title", None)
    return model, {"type": "object", "properties": {}, **schema}


def _blame(where: str, definitions: dict[str, Any], fields: dict[str, str]) -> None:
    """Raises TypeError for the parameter that pydantic cannot take."""
    for field, name in fields.items():
        try:
            _build("one", {field: definitions[field]}, False)
        except Exception as error:
            raise TypeError(
                f"{where}: no JSON Schema describes parameter {name!r}"
                f" ({str(error).splitlines()[0]}); annotate it with what JSON can hold, or give"
                " it a default and name it in hide_args"
            ) from error


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter, where: str) -> Any:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any  # whatever the model sends
    holder = type("holder", (), {"__annotations__": {"it": annotation}})
    try:
        return typing.get_type_hints(holder, _globals(function), include_extras=True)["it"]
    except Exception as error:
        raise TypeError(
            f"{where}: the annotation {annotation!r} of parameter {parameter.name!r} cannot be"
            f" resolved ({error}): it has to be known in the function's module"
        ) from error


def _globals(function: Callable[..., Any]) -> dict[str, Any]:
    inner = documented(inspect.unwrap(function))
    if not hasattr(inner, "__globals__"):
        inner = getattr(inner, "__func__", None) or type(inner).__call__  # a callable object
    found: dict[str, Any] = getattr(inner, "__globals__", {})
    return found


def _is_field(default: Any) -> bool:
    from pydantic.fields import FieldInfo

    return isinstance(default, FieldInfo)


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(step) for step in location) or "arguments"


def _problem(problem: Any) -> str:
    return "no such argument" if problem["type"] == "extra_forbidden" else str(problem["msg"])
