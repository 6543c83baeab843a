"""Upstreams for each dialect that a gateway speaks, on one HTTP server; what they get is checked.

Each answers with the nonce that it was sent, so that callers know their own answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.providers.upstream import Received, Script, Upstream, as_json, completion
from tests.providers.vendors import ollama, responses
from tests.support.flavours import LoopThread

# Provider → its settings, but for base_url. Each speaks a dialect of its own.
_PROVIDERS: Mapping[str, Mapping[str, str]] = {
    "openai": {"kind": "openai", "api_key": "sk-test-of-openai"},
    "chat": {"kind": "openai", "api": "chat", "api_key": "sk-test-of-openai"},
    "anthropic": {"kind": "anthropic", "api_key": "sk-ant-test"},
    "ollama": {"kind": "ollama"},
    "vllm": {"kind": "vllm"},
    "mistral": {"kind": "mistral", "api_key": "sk-test-of-mistral"},
    "gemini": {"kind": "gemini", "api_key": "sk-test-of-gemini"},
    "other": {"kind": "openai-compatible"},
}
_ROOTED = frozenset({"anthropic", "ollama"})  # their paths hold the version

HOSTED = tuple(f"{name}/m" for name in _PROVIDERS)
"""A model of each."""

_NONCE = re.compile(rb"nonce-[0-9a-f]{8}")


def nonce(number: int) -> str:
    """What an upstream that is told it answers."""
    return f"nonce-{number:08x}"


class Dialects:
    """The upstreams: each answers what it was asked with the nonce in it, in its own words.

    ``nonsense`` are the requests that are no JSON as RFC 8259 has it.
    """

    def __init__(self) -> None:
        self.nonsense: list[bytes] = []
        self._upstream = Upstream()
        self._upstream.otherwise = self._answer
        self._thread = LoopThread()
        self._thread.run(self._upstream.start())

    def close(self) -> None:
        self._thread.run(self._upstream.stop())
        self._thread.close()

    def table(self) -> str:
        """The gateway's configuration, in TOML."""
        url = self._upstream.url
        lines: list[str] = []
        for name, settings in _PROVIDERS.items():
            base = url.removesuffix("/v1") if name in _ROOTED else url
            lines.append(f"[providers.{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
            lines += [f'base_url = "{base}"', "retry.attempts = 1"]
        return "\n".join([*lines, "[routes.either]", 'targets = ["vllm/m", "local/tiny"]', ""])

    def _answer(self, request: Received) -> Script:
        self._upstream.received.clear()
        path = request.path.partition("?")[0]
        if request.method == "GET":
            if path.startswith("/v1/models/"):
                known = {"type": "model", "id": "m", "display_name": "M"}
                return as_json(known) if path == "/v1/models/m" else _missing(path)
            listed = [{"id": "m", "name": "m", "object": "model", "created": 1721172717}]
            return as_json({"object": "list", "data": listed, "models": [], "has_more": False})
        try:
            asked = json.loads(request.body, parse_constant=_no_constant, parse_int=str)
        except ValueError:
            self.nonsense.append(request.body)
            return as_json({"error": {"message": "not JSON"}}, 400)
        found = _NONCE.search(request.body)
        words = found.group().decode() if found else "hello"
        return _said(path.rpartition("/")[2], asked, words)


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _said(method: str, asked: dict[str, Any], words: str) -> Script:
    if method == "chat" or (method == "completions" and asked.get("n")):
        last = ollama.line({"content": words}, done_reason="stop", **ollama.END)
        return Script([last], 200, {"content-type": "application/json"})
    if method == "completions":
        return as_json(completion({"content": words}, usage={"prompt_tokens": 1}))
    if method == "responses":
        items = [responses.message(responses.output(words))]
        return as_json(responses.response(items, "completed", model="m"))
    if method == "messages":
        said = {"content": [{"type": "text", "text": words}], "stop_reason": "end_turn"}
        usage = {"input_tokens": 5, "output_tokens": 20}
        return as_json({"id": "1", "type": "message", "role": "assistant", "usage": usage, **said})
    if method in ("embeddings", "embed"):
        count = len(asked["input"]) if isinstance(asked.get("input"), list) else 1
        vectors = [[0.5, 0.25]] * count
        data = [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        return as_json({"data": data, "embeddings": vectors})
    if method == "show" and asked.get("model") == "m":
        return as_json({"capabilities": ["completion"], "model_info": {}})
    if method == "generate" and asked.get("model") == "m":
        return Script([ollama.line({}, done_reason="load", **ollama.END)], 200, {})
    return _missing(method)


def _missing(what: str) -> Script:
    error = {"type": "not_found_error", "message": f"there is no {what} here"}
    return as_json({"type": "error", "error": error}, 404)
