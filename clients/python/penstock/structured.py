"""Answers that are objects: a pydantic model in, an instance of it out.

Where a model can be held to a JSON Schema, it is. Where it cannot, it is told the schema; and
where what comes does not fit, it is told what is wrong with it, a bounded number of times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc

from penstock import messages as make
from penstock import v1
from penstock._core import Core, Question
from penstock._flavours import Flavour
from penstock._request import to_json
from penstock.errors import PenstockError, UnsupportedFeatureError
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


class _Way(NamedTuple):
    """How the model is kept to a schema: by what it is held, and whether it is told the schema."""

    hold: Callable[[v1.GenerateRequest, str], object]
    told: bool


def _by_schema(request: v1.GenerateRequest, schema: str) -> None:
    form = v1.JsonSchemaFormat(schema=schema)
    request.response_format.CopyFrom(v1.ResponseFormat(json_schema=form))


def _by_json(request: v1.GenerateRequest, schema: str) -> None:
    request.response_format.CopyFrom(v1.ResponseFormat(json_object=v1.JsonObjectFormat()))


def _by_word(request: v1.GenerateRequest, schema: str) -> None:
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

    schema = to_json(response_model.model_json_schema())
    ways = iter(_WAYS)
    way = next(ways)
    request = v1.GenerateRequest()
    request.CopyFrom(question.request)
    asked = Question(request, question.timeout, question.prompt, question.labels)
    way.hold(request, schema)
    attempt = 1
    while True:
        try:
            response = await core.generate(flavour, asked)
        except UnsupportedFeatureError:
            if (other := next(ways, None)) is None:
                raise
            if other.told and not way.told:
                request.messages.append(make.user(_instruction(schema)))
            way = other
            way.hold(request, schema)
            continue
        text = response.content or ""
        try:
            return response_model.model_validate_json(_bare(text))
        except ValidationError as error:
            problems = _problems(error)
        data = {
            "response_model": response_model.__name__,
            "validation_attempt": attempt,
            "validation_error": "; ".join(problems),
            "retry_count": attempt - 1,
            "model": request.model,
            **question.labels,
        }
        await flavour.emit(core.events, EventType.VALIDATION_FAILED, data, core.provider)
        if attempt >= attempts or response.finish_reason == "length":
            # One that ran out of tokens would only run out of them again.
            await flavour.emit(core.events, EventType.RETRY_EXHAUSTED, data, core.provider)
            raise StructuredOutputError(
                _message(response_model.__name__, attempt, response, problems), response, problems
            )
        attempt += 1
        await flavour.emit(core.events, EventType.RETRY_ATTEMPTED,
                           {**data, "current_attempt": attempt, "max_attempts": attempts},
                           core.provider)  # fmt: skip
        request.messages.append(response.raw_response.message)
        request.messages.append(make.user(_correction(schema, problems)))


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


def _message(name: str, attempts: int, response: GenerateResponse, problems: Sequence[str]) -> str:
    tries = "an answer" if attempts == 1 else f"{attempts} answers"
    if response.finish_reason == "length":
        return f"the answer was cut off before it was a {name}: allow more max_output_tokens"
    return f"{tries} did not make a {name}: {'; '.join(problems)}"


def attempts_of(strategy: Any) -> int:
    """How many answers to check: a number, or what has ``max_attempts``."""
    attempts = int(getattr(strategy, "max_attempts", strategy))
    if attempts < 1:
        raise ValueError("retry_strategy: must allow at least 1 answer")
    return attempts
