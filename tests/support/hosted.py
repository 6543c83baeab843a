"""Hosted providers on a loopback port: one HTTP server that answers for OpenAI and others.

It has the APIs of OpenAI, Anthropic and Ollama, runs in a thread of its own, beside tests of either
flavour, and a gateway's providers of these names are pointed at it. A test may have every answer
replaced: ``hosted.answers = …``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.providers.upstream import Received, Script, Upstream, as_json, as_stream, eventwise
from tests.providers.vendors import ollama, responses
from tests.support.flavours import LoopThread

MODEL = "gpt-4o-mini"
"""The one that there is at OpenAI; any other is answered by a 404."""

WORDS = "One, two, three, four, five, six, seven, eight, nine, ten."

Answers = Callable[[Received], Script]


class Hosted:
    """The server; ``upstream`` knows what it was asked, and by whom it was left."""

    def __init__(self, upstream: Upstream, thread: LoopThread) -> None:
        self.upstream = upstream
        self.thread = thread
        self.answers: Answers = well
        upstream.otherwise = lambda request: self.answers(request)

    def settings(self) -> Sequence[str]:
        """Flags that configure a gateway's three providers."""
        root = self.upstream.url.removesuffix("/v1")
        values = ["openai.kind=openai", f"openai.base_url={self.upstream.url}"]
        values += ["anthropic.kind=anthropic", f"anthropic.base_url={root}"]
        values += ["ollama.kind=ollama", f"ollama.base_url={root}"]
        for name in ("openai", "anthropic", "ollama"):
            values.append(f"{name}.retry.attempts=1")  # a failure is to be seen at once
        return [arg for value in values for arg in ("--set", f"providers.{value}")]

    def reset(self) -> None:
        """Answer well again, and forget what was."""
        self.answers = well
        self.upstream.forget()

    def wait(self, name: str) -> None:
        """Wait for what `Upstream` has a coroutine for: "asked", "hung_up"."""
        self.thread.run(getattr(self.upstream, name)())


ENVIRONMENT = {"OPENAI_API_KEY": "sk-test", "ANTHROPIC_API_KEY": "sk-ant-test"}
"""What the gateway needs beside `Hosted.settings`."""


@contextmanager
def hosting() -> Iterator[Hosted]:
    """The server, running."""
    thread = LoopThread()
    upstream = Upstream()
    try:
        thread.run(upstream.start())
        yield Hosted(upstream, thread)
    finally:
        thread.run(upstream.stop())
        thread.close()


def well(request: Received) -> Script:
    """An answer as it should be, by whose API was called."""
    path = request.path.partition("?")[0]
    if request.method == "GET":
        listed = [{"id": MODEL, "object": "model", "created": 1721172717, "owned_by": "system"}]
        return as_json({"object": "list", "data": listed, "has_more": False, "models": []})
    asked = request.json
    if path.endswith("/responses"):
        return _openai(asked)
    if path.endswith("/messages"):
        return as_json(_ANTHROPIC)
    if path.endswith("/api/chat"):
        said = ollama.line({"content": WORDS}, done_reason="stop", **ollama.END)
        return Script([said], 200, {"content-type": "application/json"})
    return as_json({"error": {"message": f"no {path} here"}}, 404)


def _openai(asked: dict[str, Any]) -> Script:
    if asked["model"] != MODEL:
        told = f"The model `{asked['model']}` does not exist or you do not have access to it."
        error = {"message": told, "type": "invalid_request_error", "param": None}
        return as_json({"error": {**error, "code": "model_not_found"}}, 404)
    items = [_item(asked)]
    if asked.get("stream"):
        return as_stream(*eventwise(responses.streamed(items)))
    return as_json(responses.response(items, "completed", model=MODEL))


def _item(asked: dict[str, Any]) -> dict[str, Any]:
    """Words; where there are tools and no results yet, a call of the first; JSON where wanted."""
    results = [item for item in asked["input"] if item.get("type") == "function_call_output"]
    if results:
        return responses.message(responses.output(f"I was told: {results[-1]['output']}"))
    if asked.get("tools"):
        tool = asked["tools"][0]
        fields = {"id": "fc_1", "call_id": "call_1", "name": tool["name"], "status": "completed"}
        arguments = json.dumps(_example(tool["parameters"]))
        return {"type": "function_call", "arguments": arguments, **fields}
    schema = asked.get("text", {}).get("format", {}).get("schema")
    if schema:
        return responses.message(responses.output(json.dumps(_example(schema))))
    return responses.message(responses.output(WORDS))


def _example(schema: dict[str, Any]) -> dict[str, Any]:
    """Something that fits a simple schema."""
    simple = {"string": "Oslo", "integer": 2, "number": 0.5, "boolean": True, "array": []}
    properties: dict[str, Any] = schema.get("properties", {})
    return {
        name: (about.get("enum") or [simple.get(about.get("type", ""), "Oslo")])[0]
        for name, about in properties.items()
    }


_ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [{"type": "text", "text": WORDS}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 20},
}


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


BROKEN: dict[str, Script] = {
    "500": as_json(_error("The server had an error.", "server_error"), 500),
    "429": as_json(_error("Rate limit reached.", "rate_limit_exceeded"), 429, retry_after="7"),
    "nonsense": Script([b"<html>It works!</html>"], 200, {"content-type": "text/html"}),
    "closed": Script(raw=b"", ending="cut"),
}
"""Answers as they should not be."""
