"""Answers that are objects: a pydantic model in, an instance of it out.

Where a model can be held to a JSON Schema, it is. Where it cannot, it is told the schema; and
where what comes does not fit, it is told what is wrong with it, a bounded number of times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc

from penstock import messages as make
from penstock import v1
from penstock._core import Core, Question
from penstock._flavours import Flavour
from penstock._request import to_json
from penstock.errors import InvalidRequestError, PenstockError, UnsupportedFeatureError
from penstock.events import EventType
from penstock.response import GenerateResponse

if TYPE_CHECKING:
    from pydantic import BaseModel

_ModelT = TypeVar("_ModelT", bound="BaseModel")

ATTEMPTS = 3
"""How often a model may try, where nobody says otherwise."""

_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)


class StructuredOutputError(PenstockError):
    """The model did not write what was asked for, however often it was told.

    Attributes:
        response: its last answer, a `penstock.GenerateResponse`.
        problems: what was wrong with that, in words.

    Example::

        try:
            city = llm.generate("Name a city.", response_model=City)
        except penstock.StructuredOutputError as error:
            print(error.problems, error.response.content)
    """

    def __init__(self, message: str, response: GenerateResponse, problems: Sequence[str]) -> None:
        super().__init__(message, code=grpc.StatusCode.FAILED_PRECONDITION)
        self.response = response
        self.problems = tuple(problems)


class Wanted(NamedTuple):
    """What the answer has to be: a name and a JSON Schema, closed where no object is open."""

    name: str
    schema: str
    is_closed: bool

    @classmethod
    def of(cls, response_model: type[BaseModel]) -> Wanted:
        """What a pydantic model asks for."""
        schema = response_model.model_json_schema()
        are_closed = [_close(each) for each in _within(schema)]  # all, not up to the first open one
        return cls(
            _NO_NAME.sub("_", response_model.__name__)[:64], to_json(schema), all(are_closed)
        )


_NO_NAME = re.compile("[^A-Za-z0-9_-]")


def _within(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects inside a schema, itself included."""
    if isinstance(schema, dict):
        yield schema
        for each in list(schema.values()):
            yield from _within(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _within(each)


def _close(schema: dict[str, Any]) -> bool:
    """Have the model write every property and no other: only that can all providers hold it to.

    Whether that was possible. What has a default is then written, too, which does no harm.
    """
    if schema.get("type") != "object":
        return True
    if not isinstance(schema.get("properties"), dict):
        return False  # a mapping with any keys
    schema["required"] = list(schema["properties"])
    return schema.setdefault("additionalProperties", False) is False


class _Way(NamedTuple):
    """How the model is kept to a schema: by what it is held, and whether it is told the schema."""

    hold: Callable[[v1.GenerateRequest, Wanted], object]
    told: bool


def _by_schema(request: v1.GenerateRequest, wanted: Wanted) -> None:
    form = v1.JsonSchemaFormat(name=wanted.name, schema=wanted.schema)
    if not wanted.is_closed:
        form.strict = False  # some providers refuse such a schema else
    request.response_format.CopyFrom(v1.ResponseFormat(json_schema=form))


def _by_json(request: v1.GenerateRequest, wanted: Wanted) -> None:
    request.response_format.CopyFrom(v1.ResponseFormat(json_object=v1.JsonObjectFormat()))


def _by_word(request: v1.GenerateRequest, wanted: Wanted) -> None:
    request.ClearField("response_format")


_WAYS: Sequence[_Way] = (_Way(_by_schema, False), _Way(_by_json, True), _Way(_by_word, True))
"""From the surest on: the next one where the model or its provider does not know one."""


async def generate_structured(
    core: Core,
    flavour: Flavour,
    question: Question,
    response_model: type[_ModelT],
    attempts: int = ATTEMPTS,
) -> _ModelT:
    """An instance of ``response_model``, which the model wrote.

    Raises:
        StructuredOutputError: after ``attempts`` answers that do not fit.
        PenstockError: a call failed.
    """
    from pydantic import ValidationError

    wanted = Wanted.of(response_model)
    request = v1.GenerateRequest()
    request.CopyFrom(question.request)
    asked = Question(request, question.timeout, question.prompt, question.about)
    way = -1
    attempt = 1

    def go_on_by(following: int) -> None:
        nonlocal way
        was_told, way = way >= 0 and _WAYS[way].told, following
        core.ways[wanted.schema] = way
        _WAYS[way].hold(request, wanted)
        if _WAYS[way].told and not was_told:
            request.messages.append(make.user(_instruction(wanted.schema)))

    go_on_by(core.ways.get(wanted.schema, 0))
    while True:
        try:
            response = await core.generate(flavour, asked)
        except (UnsupportedFeatureError, InvalidRequestError) as error:
            if way + 1 == len(_WAYS) or not _is_about_the_form(error):
                raise
            go_on_by(way + 1)
            continue
        hopeless = _hopeless(response)
        if hopeless is None or response.finish_reason == "length":
            try:
                return response_model.model_validate_json(_bare(response.content or ""))
            except ValidationError as error:
                problems = _problems(error)
        else:
            problems = [hopeless]
        data = {
            "response_model": response_model.__name__,
            "validation_attempt": attempt,
            "validation_error": "; ".join(problems),
            "retry_count": attempt - 1,
            "model": request.model,
            **question.about,
        }
        await flavour.emit(core.events, EventType.VALIDATION_FAILED, data, core.provider)
        if attempt >= attempts or hopeless is not None:
            await flavour.emit(core.events, EventType.RETRY_EXHAUSTED, data, core.provider)
            raise StructuredOutputError(
                hopeless or _message(response_model.__name__, attempt, problems), response, problems
            )
        attempt += 1
        counted = {**data, "current_attempt": attempt, "max_attempts": attempts}
        await flavour.emit(core.events, EventType.RETRY_ATTEMPTED, counted, core.provider)
        if response.raw_response.message.parts:
            request.messages.append(response.raw_response.message)
        request.messages.append(make.user(_correction(wanted.schema, problems)))


def check_stream(stream: bool, response_model: object) -> None:
    """Refuses both at once."""
    if stream and response_model is not None:
        raise ValueError("stream and response_model: an instance cannot come in pieces")


def _is_about_the_form(error: PenstockError) -> bool:
    """Whether another way might do. Some providers only know in words that it is the schema."""
    if isinstance(error, UnsupportedFeatureError):
        return error.metadata.get("feature", "response_format").startswith("response_format")
    return type(error) is InvalidRequestError and _FORM.search(str(error)) is not None


_FORM = re.compile("response_format|json_schema|schema", re.IGNORECASE)


def _hopeless(response: GenerateResponse) -> str | None:
    """Why asking again would not help; None where it might."""
    if response.tool_calls:
        names = ", ".join(response.get_tools_executed())
        return f"the model wants tools called first ({names}); see LLM.run_tools"
    return _HOPELESS.get(response.finish_reason or "")


_HOPELESS = {
    "length": "the answer was cut off before it was whole: allow more max_output_tokens",
    "refusal": "the model declined to answer",
    "content_filter": "the provider's filter cut the answer",
}


def _bare(text: str) -> str:
    """JSON without the fence that models like to put around it."""
    found = _FENCE.match(text)
    return found[1] if found else text.strip()


def _problems(error: Any) -> list[str]:
    return [
        f"{'.'.join(map(str, problem['loc'])) or 'the answer'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False)
    ]


def _instruction(schema: str) -> str:
    return (
        "Answer with one JSON value that fits this JSON Schema, and with nothing else:\n"
        f"{json.dumps(json.loads(schema), ensure_ascii=False, indent=1)}"
    )


def _correction(schema: str, problems: Sequence[str]) -> str:
    listed = "\n".join(f"- {problem}" for problem in problems)
    return f"That does not fit:\n{listed}\n{_instruction(schema)}"


def _message(name: str, attempts: int, problems: Sequence[str]) -> str:
    tries = "an answer" if attempts == 1 else f"{attempts} answers"
    return f"{tries} did not make a {name}: {'; '.join(problems)}"


def attempts_of(strategy: Any) -> int:
    """How many answers to check: a number, or what has ``max_attempts``."""
    attempts = getattr(strategy, "max_attempts", strategy)
    if not isinstance(attempts, int):
        raise TypeError(f"retry_strategy: {strategy!r} is no number, and has no max_attempts")
    if attempts < 1:
        raise ValueError("retry_strategy: must allow at least 1 answer")
    return attempts
