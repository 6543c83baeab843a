"""The servers that are known by name: a row each, and how their APIs differ from one another.

All of them speak Chat Completions, none of them all of it. A field that a server is documented,
or was seen, to ignore stands in its ``unsupported``: the gateway refuses it, because the server
would drop it without a word. Everything else is passed on, and the server may refuse it.
Speaking to them does not belong here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from penstock import v1

_JSON_OBJECT: Mapping[str, object] = {"type": "json_object"}


def _as_it_is(value: str) -> str:
    return value.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server's row; the defaults are those of a server that nothing is known of."""

    base_url: str = ""
    url_env: str = ""
    """The environment variable that overrides ``base_url``, where users expect one to."""
    read_url_env: Callable[[str], str] = _as_it_is
    """From that variable's value to a base URL."""
    key_env: str = ""
    """The environment variable that holds the key; "" where none is needed."""
    local: bool = False
    """Whether it runs on the user's own machine."""
    unreachable: str = "is the server running, and base_url right?"
    """What to do where nobody answers."""
    hints: Mapping[v1.ErrorReason.ValueType, str] = field(default_factory=dict)
    """What to do about its other failures."""
    unsupported: frozenset[str] = frozenset()
    """Fields of a request that it ignores, such as "sampling.top_k"; "Embed" for that method."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Fields of a request that are called otherwise here than elsewhere, in its JSON."""
    json_object: Mapping[str, object] = field(default_factory=lambda: _JSON_OBJECT)
    """The ``response_format`` that asks for any JSON object."""
    thinking_name: str = ""
    """What earlier thoughts are sent back as; "" where it takes none."""
    models_path: str = "/models"
    models_headers: Mapping[str, str] = field(default_factory=dict)
    """More headers for listing models; "{key}" stands for the key."""
    default_tag: str = ""
    """What it adds to a model's name that has no tag."""


def ollama_url(host: str) -> str:
    """The base URL for a value of OLLAMA_HOST, read as Ollama's own client reads it.

    Source: ``envconfig/config.go`` of ollama/ollama. Host, port and scheme may each be missing;
    with a scheme, the port's default is the scheme's. An address that only a server can use
    (0.0.0.0) becomes the loopback's.

    Example::

        ollama_url("0.0.0.0") == "http://127.0.0.1:11434/v1"
    """
    text = host.strip().strip("\"'").strip()
    scheme, has_scheme, rest = text.rpartition("://")
    default_port = {"http": "80", "https": "443"}.get(scheme, "11434")
    rest, _, path = rest.partition("/")
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", rest)
    name, port = (match[1], match[2]) if match else (rest, None)
    name = name.strip("[]") or "127.0.0.1"
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        if address.is_unspecified:
            name = "127.0.0.1" if address.version == 4 else "::1"
    if ":" in name:
        name = f"[{name}]"
    where = f"{scheme if has_scheme else 'http'}://{name}:{port or default_port}"
    return f"{where}/{path}".rstrip("/") + "/v1"


KNOWN: Mapping[str, Server] = {
    "openai": Server(
        base_url="https://api.openai.com/v1",
        url_env="OPENAI_BASE_URL",  # the variable of OpenAI's own clients
        key_env="OPENAI_API_KEY",
        unreachable="is api.openai.com reachable from here?",
        hints={v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "check OPENAI_API_KEY"},
        # No such parameters: developers.openai.com, API reference, "Create chat completion".
        unsupported=frozenset(
            {
                "sampling.top_k",
                "sampling.min_p",
                "sampling.repetition_penalty",
                "thinking.include",  # thoughts stay with OpenAI; the Responses API tells summaries
            }
        ),
        # Its reasoning models refuse the older name, max_tokens.
        names={"sampling.max_output_tokens": "max_completion_tokens"},
    ),
    "anthropic": Server(
        base_url="https://api.anthropic.com/v1",
        key_env="ANTHROPIC_API_KEY",
        unreachable="is api.anthropic.com reachable from here?",
        hints={v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "check ANTHROPIC_API_KEY"},
        # "Ignored", says platform.claude.com/docs/en/api/openai-sdk.
        unsupported=frozenset(
            {
                "sampling.top_k",
                "sampling.min_p",
                "sampling.repetition_penalty",
                "sampling.seed",
                "sampling.presence_penalty",
                "sampling.frequency_penalty",
                "sampling.logit_bias",
                "response_format",
                "logprobs",
                "thinking.effort",
                "thinking.include",
                "tools.strict",
                "Embed",
            }
        ),
        # The list is the native API's: its own headers, and pages of 20 unless told otherwise.
        models_path="/models?limit=1000",
        models_headers={"x-api-key": "{key}", "anthropic-version": "2023-06-01"},
    ),
    "ollama": Server(
        base_url="http://localhost:11434/v1",
        url_env="OLLAMA_HOST",
        read_url_env=ollama_url,
        local=True,
        unreachable="is Ollama running? Start it with `ollama serve`",
        hints={v1.ERROR_REASON_MODEL_NOT_FOUND: "`ollama pull` fetches models"},
        # Not among the fields that its /v1 endpoint reads (``ChatCompletionRequest`` in
        # openai/openai.go of ollama/ollama); tool_choice: ollama/ollama#17921.
        unsupported=frozenset(
            {
                "sampling.top_k",
                "sampling.min_p",
                "sampling.repetition_penalty",
                "sampling.logit_bias",
                "tool_choice.mode",
                "tool_choice.parallel_tool_calls",
                "tools.strict",
            }
        ),
        thinking_name="reasoning",
        default_tag=":latest",
    ),
    "lmstudio": Server(
        base_url="http://localhost:1234/v1",
        local=True,
        unreachable="is LM Studio's server running? Start it with `lms server start`",
        hints={v1.ERROR_REASON_MODEL_NOT_FOUND: "`lms get` fetches models"},
        # lmstudio.ai/docs/developer/openai-compat/chat-completions lists the name.
        names={"sampling.repetition_penalty": "repeat_penalty"},
        # It refuses "json_object" (lmstudio-bug-tracker#189); this schema means the same.
        json_object={
            "type": "json_schema",
            "json_schema": {"name": "response", "schema": {"type": "object"}},
        },
    ),
}

OTHER = Server(local=True)
"""Stands for a server that has no row: everything is passed on to it."""


def default_base_url(kind: str, environ: Mapping[str, str]) -> str:
    """The base URL of a known server: its variable in ``environ``, else its row's.

    Raises KeyError where no row has that name.

    Example::

        default_base_url("ollama", {"OLLAMA_HOST": "gpu:1"}) == "http://gpu:1/v1"
    """
    server = KNOWN[kind]
    value = environ.get(server.url_env, "").strip() if server.url_env else ""
    return server.read_url_env(value) if value else server.base_url
