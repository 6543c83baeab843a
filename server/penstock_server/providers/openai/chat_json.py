"""The JSON that a Chat Completions server answers: only the fields that are read.

Formats: developers.openai.com, API reference, "The chat completion object", "The chat completion
chunk object", "The model object" and "The embedding object". Beyond these, thoughts come as
``reasoning_content`` (DeepSeek, SGLang, LM Studio) or ``reasoning`` (vLLM, Groq, OpenRouter);
vLLM says in ``stop_reason`` which stop string it met. Servers leave out what they like, or send it
as null, so nearly everything may be None; of the wrong type it may not be.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from penstock import v1

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class AlternativeJson(msgspec.Struct, gc=False):
    """choices[].logprobs.content[].top_logprobs[]."""

    token: str
    logprob: float
    bytes: list[Byte] | None = None


class LogprobJson(msgspec.Struct, gc=False):
    """choices[].logprobs.content[]."""

    token: str
    logprob: float
    bytes: list[Byte] | None = None
    top_logprobs: list[AlternativeJson] | None = None


class LogprobsJson(msgspec.Struct, gc=False):
    """choices[].logprobs."""

    content: list[LogprobJson] | None = None
    refusal: list[LogprobJson] | None = None


class FunctionJson(msgspec.Struct, gc=False):
    """choices[].delta.tool_calls[].function."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ToolCallJson(msgspec.Struct, gc=False):
    """choices[].delta.tool_calls[], and the same of a whole message, which has no index."""

    index: int | None = None
    id: str | None = None
    function: FunctionJson | None = None
    extra_content: Any = None


class ContentJson(msgspec.Struct, gc=False):
    """A piece of a content that is a list: Mistral's way to tell thoughts from text."""

    type: str = "text"
    text: str | None = None
    thinking: str | list[ContentJson] | None = None


class MessageJson(msgspec.Struct, gc=False):
    """choices[].delta, and choices[].message of a whole answer."""

    content: str | list[ContentJson] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallJson] | None = None
    reasoning_details: list[Any] | None = None
    annotations: list[Any] | None = None
    audio: Any = None


class ChoiceJson(msgspec.Struct, gc=False):
    """choices[]."""

    index: int = 0
    delta: MessageJson | None = None
    message: MessageJson | None = None
    logprobs: LogprobsJson | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    error: Any = None


class InputDetailsJson(msgspec.Struct, gc=False):
    """usage.prompt_tokens_details."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class OutputDetailsJson(msgspec.Struct, gc=False):
    """usage.completion_tokens_details."""

    reasoning_tokens: Count | None = None


class UsageJson(msgspec.Struct, gc=False):
    """usage."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: InputDetailsJson | None = None
    completion_tokens_details: OutputDetailsJson | None = None

    def to_proto(self) -> v1.Usage:
        """As the contract counts: cached ⊂ input, thinking ⊂ output, as it is here too."""
        inputs = self.prompt_tokens_details or InputDetailsJson()
        outputs = self.completion_tokens_details or OutputDetailsJson()
        return v1.Usage(
            input_tokens=self.prompt_tokens or 0,
            output_tokens=self.completion_tokens or 0,
            cached_input_tokens=inputs.cached_tokens or 0,
            cache_write_tokens=inputs.cache_write_tokens or 0,
            thinking_tokens=outputs.reasoning_tokens or 0,
        )


class GroqJson(msgspec.Struct, gc=False):
    """x_groq: where Groq puts the usage of streams."""

    usage: UsageJson | None = None


class AnswerJson(msgspec.Struct, gc=False):
    """A chat completion, or a chunk of one; or an error in its place."""

    id: str | None = None
    model: str | None = None
    choices: list[ChoiceJson] | None = None
    usage: UsageJson | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    x_groq: GroqJson | None = None
    citations: list[Any] | None = None
    error: Any = None


class ModelJson(msgspec.Struct):
    """data[] of a list of models; all but the first two are some vendors' own."""

    id: str
    created: int | float | None = None
    name: str | None = None
    display_name: str | None = None
    context_length: int | float | None = None
    context_window: int | float | None = None
    max_context_length: int | float | None = None
    max_model_len: int | float | None = None
    max_completion_tokens: int | float | None = None
    type: str | None = None
    supported_parameters: list[str] | None = None
    architecture: Any = None
    top_provider: Any = None
    capabilities: Any = None
    meta: Any = None


class ModelsJson(msgspec.Struct):
    """A list of models; ``data`` is null where Ollama has none."""

    data: list[ModelJson] | None


class VectorJson(msgspec.Struct):
    """data[] of embeddings."""

    embedding: list[float]
    index: int


class EmbeddingsJson(msgspec.Struct):
    """A list of embeddings."""

    data: list[VectorJson]
    usage: UsageJson | None = None


# Each raises ValueError or RecursionError for anything else.
decode_answer = msgspec.json.Decoder(AnswerJson).decode
decode_models = msgspec.json.Decoder(ModelsJson).decode
decode_embeddings = msgspec.json.Decoder(EmbeddingsJson).decode
