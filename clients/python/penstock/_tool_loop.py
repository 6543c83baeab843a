"""Model, tools, model, …, until there is an answer: what `LLM.run_tools` does, written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from penstock import messages as make
from penstock import v1
from penstock._core import Core, Question
from penstock._flavours import Flavour
from penstock.errors import PenstockError
from penstock.response import GenerateResponse
from penstock.tools import result_text

ROUNDS = 10
"""How often the model is asked, where nobody says otherwise."""


class ToolLoopError(PenstockError):
    """The model still wanted tools called when it had been asked as often as was allowed.

    Attributes:
        response: its last answer, a `penstock.GenerateResponse`, whose calls were not made.
        messages: the whole conversation, to go on from.
    """

    def __init__(
        self, message: str, response: GenerateResponse, messages: Sequence[v1.Message]
    ) -> None:
        super().__init__(message, code=grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.response = response
        self.messages = list(messages)


async def run_tools(
    core: Core,
    flavour: Flavour,
    question: Question,
    tools: Sequence[Any],
    *,
    rounds: int,
    timeout: float | None,
) -> GenerateResponse:
    """See `LLM.run_tools`. ``timeout`` is for each tool, in seconds."""
    if rounds < 1:
        raise ValueError("max_rounds: must be at least 1")
    request = v1.GenerateRequest()
    request.CopyFrom(question.request)
    asked = Question(request, question.timeout, question.prompt, question.labels)
    usage: dict[str, int] = {}
    results: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        response = await core.generate(flavour, asked)
        for name, tokens in (response.usage or {}).items():
            usage[name] = usage.get(name, 0) + tokens
        request.messages.append(response.raw_response.message)
        if not response.tool_calls:
            response.metadata |= {
                "tool_rounds": number,
                "tool_results": results,
                "total_usage": usage,
                "messages": list(request.messages),
            }
            return response
        if number == rounds:
            break
        made = await flavour.execute_tools(
            make.tool_calls_of(response.raw_response), tools, timeout, emitter=core.events
        )
        results += made
        for result in made:
            text = result_text(result)
            failed = "error" in result
            request.messages.append(make.tool_result(result["call_id"], text, is_error=failed))
        if request.tool_choice.mode in _ONCE:
            # Whoever has to call a tool each time never comes to an answer.
            request.tool_choice.mode = v1.ToolChoice.MODE_AUTO
            request.tool_choice.tool_name = ""
    raise ToolLoopError(
        f"the model still wants tools called after {rounds} rounds: "
        f"{', '.join(response.get_tools_executed())}; allow more by max_rounds",
        response,
        request.messages,
    )


_ONCE = frozenset({v1.ToolChoice.MODE_REQUIRED, v1.ToolChoice.MODE_TOOL})
