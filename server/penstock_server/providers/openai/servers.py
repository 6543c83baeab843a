"""The servers that speak Chat Completions: a row each, and how they differ from one another.

None of them speaks all of it. A field that a server is documented, or was seen, to ignore stands in
its ``unsupported``: the gateway refuses it, because the server would drop it without a word.
Everything else is passed on, and the server may refuse it. Speaking to them does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from penstock import v1

Thinks = Literal["effort", "reasoning", "template", "switch"]
"""How a server is asked to think: ``reasoning_effort``; an object ``reasoning`` with an effort or a
budget of tokens; ``chat_template_kwargs.enable_thinking``; ``thinking.type``."""

_JSON_OBJECT: Mapping[str, object] = {"type": "json_object"}

# No such parameters in OpenAI's own API.
_BEYOND_OPENAI = frozenset({"sampling.top_k", "sampling.min_p", "sampling.repetition_penalty"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server's row; the defaults are those of a server that nothing is known of."""

    base_url: str = ""
    url_env: str = ""
    """The environment variable that overrides ``base_url``, where users expect one to."""
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
    thinks: Thinks = "effort"
    thinking_name: str = ""
    """What earlier thoughts are sent back as; "" where it takes none."""
    required: str = "required"
    """The ``tool_choice`` that makes the model call some tool."""
    stream_usage: bool = True
    """Whether usage in streams has to be asked for, by ``stream_options``."""
    call_id_length: int = 0
    """How long a tool call's id has to be, in letters and digits; 0: anything goes."""


def _hosted(host: str, key_env: str) -> dict[str, object]:
    """What the rows of all hosted vendors have in common."""
    return {
        "key_env": key_env,
        "unreachable": f"is {host} reachable from here?",
        "hints": {v1.ERROR_REASON_PROVIDER_AUTHENTICATION: f"check {key_env}"},
    }


KNOWN: Mapping[str, Server] = {
    "openai": Server(
        base_url="https://api.openai.com/v1",
        url_env="OPENAI_BASE_URL",  # the variable of OpenAI's own clients
        key_env="OPENAI_API_KEY",
        unreachable="is api.openai.com reachable from here?",
        hints={v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "check OPENAI_API_KEY"},
        # developers.openai.com, API reference, "Create chat completion". Thoughts stay with OpenAI;
        # the Responses API tells summaries.
        unsupported=_BEYOND_OPENAI | {"thinking.include"},
        # Its reasoning models refuse the older name, max_tokens.
        names={"sampling.max_output_tokens": "max_completion_tokens"},
    ),
    "azure": Server(
        key_env="AZURE_OPENAI_API_KEY",
        unreachable="is base_url the resource's endpoint?",
        hints={
            v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "check AZURE_OPENAI_API_KEY",
            v1.ERROR_REASON_MODEL_NOT_FOUND: "models are called by their deployment's name",
        },
        unsupported=_BEYOND_OPENAI | {"thinking.include"},
        names={"sampling.max_output_tokens": "max_completion_tokens"},
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
    "vllm": Server(
        # docs.vllm.ai, "OpenAI-Compatible Server" and "Reasoning Outputs".
        base_url="http://localhost:8000/v1",
        local=True,
        unreachable="is vLLM running? Start it with `vllm serve MODEL`",
        thinks="template",
        thinking_name="reasoning",
    ),
    "llamacpp": Server(
        # github.com/ggml-org/llama.cpp, tools/server/README.md.
        base_url="http://localhost:8080/v1",
        local=True,
        unreachable="is llama-server running, and base_url right?",
        names={"sampling.repetition_penalty": "repeat_penalty"},
        thinks="template",
        thinking_name="reasoning_content",
    ),
    "sglang": Server(
        # docs.sglang.ai, "OpenAI APIs".
        base_url="http://localhost:30000/v1",
        local=True,
        unreachable="is SGLang running? Start it with `python -m sglang.launch_server`",
        thinks="template",
        thinking_name="reasoning_content",
    ),
    "tgi": Server(
        # huggingface.co/docs/text-generation-inference, "Messages API": no other sampling there.
        base_url="http://localhost:8080/v1",
        local=True,
        unreachable="is Text Generation Inference running, and base_url right?",
        unsupported=_BEYOND_OPENAI
        | {"thinking.effort", "thinking.include", "tool_choice.parallel_tool_calls", "Embed"},
    ),
    "mlx": Server(
        # github.com/ml-explore/mlx-lm, mlx_lm/SERVER.md.
        base_url="http://localhost:8080/v1",
        local=True,
        unreachable="is mlx_lm.server running, and base_url right?",
        unsupported=frozenset(
            {
                "response_format",
                "tool_choice.mode",
                "tool_choice.parallel_tool_calls",
                "tools.strict",
                "Embed",
            }
        ),
        thinks="template",
    ),
    "transformers": Server(
        # huggingface.co/docs/transformers, "Serving": passed over with continuous batching.
        base_url="http://localhost:8000/v1",
        local=True,
        unreachable="is `transformers serve` running, and base_url right?",
        unsupported=frozenset(
            {
                "sampling.stop",
                "sampling.top_k",
                "sampling.min_p",
                "sampling.repetition_penalty",
                "response_format",
                "logprobs",
                "thinking.effort",
                "tool_choice.mode",
                "tool_choice.parallel_tool_calls",
                "tools.strict",
                "Embed",
            }
        ),
        stream_usage=False,  # it refuses fields that it does not know
    ),
    "openrouter": Server(
        # openrouter.ai/docs, "Parameters", "Reasoning tokens". Thoughts go back as
        # reasoning_details, which are opaque.
        base_url="https://openrouter.ai/api/v1",
        thinks="reasoning",
        **_hosted("openrouter.ai", "OPENROUTER_API_KEY"),  # type: ignore[arg-type]
    ),
    "groq": Server(
        # console.groq.com/docs/openai, "Currently unsupported OpenAI features".
        base_url="https://api.groq.com/openai/v1",
        names={"sampling.max_output_tokens": "max_completion_tokens"},
        unsupported=_BEYOND_OPENAI | {"sampling.logit_bias", "logprobs", "Embed"},
        **_hosted("api.groq.com", "GROQ_API_KEY"),  # type: ignore[arg-type]
    ),
    "mistral": Server(
        # docs.mistral.ai, API reference, "Chat completion". Unknown fields are refused there.
        base_url="https://api.mistral.ai/v1",
        names={"sampling.seed": "random_seed"},
        unsupported=_BEYOND_OPENAI | {"sampling.logit_bias", "logprobs"},
        required="any",
        stream_usage=False,  # told unasked
        call_id_length=9,
        **_hosted("api.mistral.ai", "MISTRAL_API_KEY"),  # type: ignore[arg-type]
    ),
    "deepseek": Server(
        # api-docs.deepseek.com, "Create chat completion", "Thinking mode".
        base_url="https://api.deepseek.com/v1",
        unsupported=_BEYOND_OPENAI
        | {"sampling.seed", "sampling.logit_bias", "tool_choice.parallel_tool_calls", "Embed"},
        thinks="switch",
        # Asked for again where tools were called on the way.
        thinking_name="reasoning_content",
        **_hosted("api.deepseek.com", "DEEPSEEK_API_KEY"),  # type: ignore[arg-type]
    ),
    "together": Server(
        # docs.together.ai, API reference, "Create chat completion".
        base_url="https://api.together.xyz/v1",
        **_hosted("api.together.xyz", "TOGETHER_API_KEY"),  # type: ignore[arg-type]
    ),
    "xai": Server(
        # docs.x.ai, API reference, "Chat completions".
        base_url="https://api.x.ai/v1",
        names={"sampling.max_output_tokens": "max_completion_tokens"},
        unsupported=_BEYOND_OPENAI | {"sampling.logit_bias", "Embed"},
        **_hosted("api.x.ai", "XAI_API_KEY"),  # type: ignore[arg-type]
    ),
    "gemini": Server(
        # ai.google.dev/gemini-api/docs/openai.
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        names={"sampling.max_output_tokens": "max_completion_tokens"},
        unsupported=_BEYOND_OPENAI | {"sampling.logit_bias", "logprobs"},
        **_hosted("generativelanguage.googleapis.com", "GEMINI_API_KEY"),  # type: ignore[arg-type]
    ),
}

OTHER = Server(local=True)
"""Stands for a server that has no row: everything is passed on to it."""


def default_base_url(kind: str, environ: Mapping[str, str]) -> str:
    """The base URL of a known server: its variable in ``environ``, else its row's.

    Raises KeyError where no row has that name.

    Example::

        default_base_url("groq", {}) == "https://api.groq.com/openai/v1"
    """
    server = KNOWN[kind]
    value = environ.get(server.url_env, "").strip() if server.url_env else ""
    return value or server.base_url
