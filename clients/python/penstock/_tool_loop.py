"""Model, tools, model, …, until there is an answer: what `LLM.run_tools` does, written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from penstock import messages as make
from penstock import v1
from penstock._core import UNSET, Core, Question
from penstock._flavours import Flavour, run
from penstock._tool_definition import by_name
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
    by_name(tools)  # what is no tool is refused before anything is asked
    if rounds < 1:
        raise ValueError("max_rounds: must be at least 1")
    request = v1.GenerateRequest()
    request.CopyFrom(question.request)
    asked = Question(request, question.timeout, question.prompt, question.about)
    usage: dict[str, int] = {}
    results: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        response = await core.generate(flavour, asked)
        for name, tokens in (response.usage or {}).items():
            usage[name] = usage.get(name, 0) + tokens
        if response.raw_response.message.parts:
            request.messages.append(response.raw_response.message)
        if response.finish_reason == "pause":
            continue  # the provider made a break: it goes on where it is given its answer back
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
    wanted = ", ".join(response.get_tools_executed()) or "more time"
    raise ToolLoopError(
        f"no answer after {rounds} rounds: the model still wants {wanted} (more: max_rounds)",
        response,
        request.messages,
    )


_ONCE = frozenset({v1.ToolChoice.MODE_REQUIRED, v1.ToolChoice.MODE_TOOL})


class ToolCalling:
    """The part of `penstock.LLM` that lets the model call tools."""

    _core: Core
    tool_timeout: float | None

    def run_tools(
        self,
        prompt: str = "",
        tools: Sequence[Any] = (),
        *,
        max_rounds: int = ROUNDS,
        tool_timeout: float | None = UNSET,
        **options: Any,
    ) -> GenerateResponse:
        """Ask, call the tools that the model wants, tell it what came of them, and so on.

        Args:
            prompt: what is asked.
            tools: functions (see `penstock.tool`). Default: the LLM's own.
            max_rounds: how often the model is asked at most.
            tool_timeout: seconds that each tool may take; None: no limit. Default: the LLM's own.
                A tool that fails, or takes longer, is told to the model as having failed.
            **options: as of `generate`.

        Returns:
            The answer that wants no tools; its ``metadata`` has ``tool_rounds``,
            ``tool_results``, ``total_usage`` of all rounds, and ``messages``, the whole
            conversation, to go on from.

        Raises:
            ToolLoopError: after ``max_rounds`` the model still wants tools.

        Example::

            llm.run_tools("Do I need an umbrella in Oslo?", [weather]).content
        """
        return run(
            self._run_tools(
                self._core.blocking, prompt, list(tools), max_rounds, tool_timeout, options
            )
        )

    async def arun_tools(
        self,
        prompt: str = "",
        tools: Sequence[Any] = (),
        *,
        max_rounds: int = ROUNDS,
        tool_timeout: float | None = UNSET,
        **options: Any,
    ) -> GenerateResponse:
        """`run_tools`' twin."""
        return await self._run_tools(
            self._core.asynchronous, prompt, list(tools), max_rounds, tool_timeout, options
        )

    async def _run_tools(
        self,
        flavour: Flavour,
        prompt: str,
        tools: Sequence[Any],
        rounds: int,
        timeout: float | None,
        options: dict[str, Any],
    ) -> GenerateResponse:
        tools = tools or list(self._core.defaults.get("tools") or ())
        timeout = self.tool_timeout if timeout is UNSET else timeout
        question = await self._core.prepare(flavour, prompt=prompt, tools=tools, **options)
        return await run_tools(self._core, flavour, question, tools, rounds=rounds, timeout=timeout)
