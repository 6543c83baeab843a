"""From a request to a job: what a local model can take, as token ids, within its context.

What is wrong for every model has been refused before (``validation``); here is refused what a
local model cannot do. Which model, and how it computes, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from penstock import v1

from penstock_server.errors import Failure, Violation
from penstock_server.local.engine import Loaded
from penstock_server.local.job import CONTEXT_FULL, MAX_TOKENS, Finish, Job
from penstock_server.local.tokenizer import TemplateRefusal, Tokenizer

# The most tokens of an answer where neither caller nor model nor context sets a bound.
UNBOUNDED = 2_048

# Longer ones are no stop strings but a way to make the server look for them.
_LONGEST_STOP = 1_000

_ROLES: Mapping[v1.Role.ValueType, str] = {
    v1.ROLE_SYSTEM: "system",
    v1.ROLE_USER: "user",
    v1.ROLE_ASSISTANT: "assistant",
}
"""What chat templates call them."""

_TEXT_PARTS = frozenset({"text", "refusal"})
_DROPPED_PARTS = frozenset({"thinking", None})  # None: another provider's opaque data


class _Refusal(NamedTuple):
    """Something that local models are not asked to do yet, and what to do about it."""

    feature: str
    asked: Callable[[v1.GenerateRequest], bool]
    advice: str


_REFUSALS: Sequence[_Refusal] = (
    _Refusal(
        "tools",
        lambda request: bool(request.tools),
        "local models do not call tools yet; leave tools out, or ask a hosted model",
    ),
    _Refusal(
        "tool_choice",
        lambda request: (
            request.tool_choice.mode in (v1.ToolChoice.MODE_REQUIRED, v1.ToolChoice.MODE_TOOL)
        ),
        "local models do not call tools yet; use MODE_AUTO or MODE_NONE",
    ),
    _Refusal(
        "response_format",
        lambda request: request.response_format.WhichOneof("format") not in (None, "text"),
        "local models answer with plain text only so far; ask for JSON in the prompt",
    ),
    _Refusal(
        "thinking",
        lambda request: (
            request.thinking.WhichOneof("amount") == "budget_tokens"
            or request.thinking.effort
            not in (v1.ThinkingOptions.EFFORT_UNSPECIFIED, v1.ThinkingOptions.EFFORT_NONE)
        ),
        "how much a local model thinks cannot be set yet; use EFFORT_NONE, or leave it unset",
    ),
    _Refusal(
        "logprobs",
        lambda request: request.HasField("logprobs"),
        "local models do not report log probabilities yet; leave logprobs out",
    ),
    _Refusal(
        "provider_options",
        lambda request: bool(request.provider_options.fields),
        "local models take no options besides the contract's own; leave provider_options out",
    ),
)


def check(request: v1.GenerateRequest) -> None:
    """Refuse what no local model can do: UNSUPPORTED_FEATURE, naming the request's field."""
    for refusal in _REFUSALS:
        if refusal.asked(request):
            raise Failure.unsupported(refusal.feature, refusal.advice)
    for index, message in enumerate(request.messages):
        for place, part in enumerate(message.parts):
            kind = part.WhichOneof("content")
            if kind not in _TEXT_PARTS and kind not in _DROPPED_PARTS:
                raise Failure.unsupported(
                    f"messages[{index}].parts[{place}].{kind}",
                    f"messages[{index}] has a part of the kind {kind!r}; local models read text "
                    "only so far: leave it out, or say it in words",
                )
    long = [
        Violation(f"sampling.stop[{index}]", f"has {len(stop)} characters; at most {_LONGEST_STOP}")
        for index, stop in enumerate(request.sampling.stop)
        if len(stop) > _LONGEST_STOP
    ]
    if long:
        raise Failure.invalid(long)


def make_job(request: v1.GenerateRequest, loaded: Loaded) -> Job:
    """The job for a request that `check` let pass.

    Takes time in proportion to the prompt's length: not for the event loop. Raises
    INVALID_REQUEST (also where the model's chat template refuses the conversation),
    UNSUPPORTED_FEATURE (a conversation for a model without a template), CONTEXT_LENGTH_EXCEEDED.
    """
    _check_logit_bias(request.sampling, loaded.vocabulary)
    is_chat = loaded.tokenizer.has_chat_template
    prompt = (_chat if is_chat else _raw)(request, loaded.tokenizer)
    if not prompt:
        raise Failure.invalid([Violation("prompt", "has no tokens for this model")])
    limit, at_limit = _limit(request.sampling, len(prompt), loaded)
    stop = [*request.sampling.stop, *loaded.stop]
    # A chat's answer begins a text of its own; a raw one goes on in the middle of its prompt.
    text = loaded.tokenizer.text_stream(stop, after=() if is_chat else prompt)
    return Job(prompt, text, request.sampling, limit=limit, at_limit=at_limit, end=loaded.end)


def conversation(request: v1.GenerateRequest) -> list[dict[str, str]]:
    """The messages as chat templates read them: "role" and "content", text only.

    System messages that open the conversation join ``request.system``, since templates take one.
    What the model thought before earlier answers is left out, as its makers advise.
    """
    opening = [request.system] if request.system else []
    messages: list[dict[str, str]] = []
    for message in request.messages:
        text = "\n".join(_texts(message))
        if message.role == v1.ROLE_SYSTEM and not messages:
            opening.append(text)
        else:
            messages.append({"role": _ROLES[message.role], "content": text})
    if request.prompt:
        messages.append({"role": "user", "content": request.prompt})
    if opening:
        messages.insert(0, {"role": "system", "content": "\n\n".join(opening)})
    return messages


def _texts(message: v1.Message) -> Iterator[str]:
    for part in message.parts:
        kind = part.WhichOneof("content")
        if kind == "text":
            yield part.text
        elif kind == "refusal":
            yield part.refusal


def _chat(request: v1.GenerateRequest, tokenizer: Tokenizer) -> list[int]:
    # Templates that know no such variable ignore it.
    effort = request.thinking.effort
    variables = {"enable_thinking": False} if effort == v1.ThinkingOptions.EFFORT_NONE else {}
    try:
        return tokenizer.encode_chat(conversation(request), **variables)
    except TemplateRefusal as error:
        field = "messages" if request.messages else "prompt"
        raise Failure.invalid(
            [Violation(field, f"the model's chat template does not take it: {error}")]
        ) from error


def _raw(request: v1.GenerateRequest, tokenizer: Tokenizer) -> list[int]:
    for field in ("messages", "system"):
        if getattr(request, field):
            raise Failure.unsupported(
                field,
                "this model has no chat template: it only continues text. Send the text as "
                "prompt alone, or use a model that was trained for conversations",
            )
    return tokenizer.encode(request.prompt)


def _limit(sampling: v1.Sampling, prompt_tokens: int, loaded: Loaded) -> tuple[int, Finish]:
    """The most tokens to write, and what it means to reach them."""
    wanted = (
        sampling.max_output_tokens
        if sampling.HasField("max_output_tokens")
        else loaded.max_output_tokens
    )
    if not loaded.context_length:
        return wanted or UNBOUNDED, MAX_TOKENS
    room = loaded.context_length - prompt_tokens
    if room < 1:
        raise Failure(
            v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
            f"the prompt has {prompt_tokens:,} tokens and the model takes "
            f"{loaded.context_length:,}, prompt and answer together; shorten the prompt",
            input_tokens=str(prompt_tokens),
            context_length=str(loaded.context_length),
        )
    return (wanted, MAX_TOKENS) if 0 < wanted <= room else (room, CONTEXT_FULL)


def _check_logit_bias(sampling: v1.Sampling, vocabulary: int) -> None:
    if not vocabulary:
        return
    unknown = sorted(token for token in sampling.logit_bias if token >= vocabulary)
    if unknown:
        problem = f"the model has no such token; its ids end at {vocabulary - 1}"
        raise Failure.invalid(
            [Violation(f"sampling.logit_bias[{token}]", problem) for token in unknown]
        )
