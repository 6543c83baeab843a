"""A provider for OpenAI's Responses API, at OpenAI and at Azure.

This room only joins the others: ``responses_request`` writes what is asked, ``responses_answer``
reads what comes back. Models and embeddings are those of Chat Completions' room.
"""

from __future__ import annotations

from typing import Any

from penstock import v1

from penstock_server.providers.answer import Answer, Asked
from penstock_server.providers.http_provider import Written
from penstock_server.providers.openai.chat_provider import ChatProvider
from penstock_server.providers.openai.responses_answer import ResponsesAnswer
from penstock_server.providers.openai.responses_request import ResponsesWriter, request_field
from penstock_server.providers.transport.credentials import Credentials
from penstock_server.providers.transport.errors import ErrorReader


class ResponsesProvider(ChatProvider):
    """Answers by the Responses API; the arguments are those of `ChatProvider`.

    ``provider_options`` are merged into the body: ``store``, ``previous_response_id``, ``tools`` of
    OpenAI's own, ``truncation``, ``service_tier`` and whatever the API has.

    Example::

        provider = ResponsesProvider("openai", openai_credentials("openai"), kind="openai")
        async for event in provider.stream("gpt-5-nano", request, call): ...
        await provider.close()
    """

    def __init__(self, name: str, credentials: Credentials, **settings: Any) -> None:
        super().__init__(name, credentials, **settings)
        self._responses = ResponsesWriter(name)
        self._responses_errors = ErrorReader(
            name, self._server.hints, self._upstream.redact, request_field
        )

    def _write(self, model: str, request: v1.GenerateRequest, *, stream: bool) -> Written:
        return Written("/responses", self._responses.write(model, request, stream=stream))

    def _answer(self, asked: Asked) -> Answer:
        return ResponsesAnswer(asked._replace(errors=self._responses_errors))
