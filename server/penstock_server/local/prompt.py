"""From a request to a job: what a local model can take, as token ids, within its context.

What is wrong for every model has been refused before (``validation``); here is refused what a
local model cannot do. Which model, and how it computes, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.json_format import MessageToDict
from penstock import v1

from penstock_server.errors import Failure, Violation
from penstock_server.local import images, shaping, thinking, tool_formats
from penstock_server.local.constraint import Constraint
from penstock_server.local.conversation import conversation
from penstock_server.local.engine import Loaded
from penstock_server.local.job import CONTEXT_FULL, MAX_TOKENS, Finish, Job
from penstock_server.local.tokenizer import TemplateRefusal, Tokenizer

# The most tokens of an answer where neither caller nor model nor context sets a bound.
UNBOUNDED = 2_048

# Longer ones are no stop strings but a way to make the server look for them.
_LONGEST_STOP = 1_000

_READ = frozenset({"text", "refusal", "tool_call", "tool_result", "image"})
_DROPPED = frozenset({"thinking", None})  # None: another provider's opaque data
_READ_IN_RESULTS = frozenset({"text"})

_TEMPLATE_OPTION = "chat_template_kwargs"
"""The one provider option: variables of the model's chat template, by the name that others use."""

# Variables of a chat template that are not the caller's to set: what they say has a field, or
# they are options of the function that renders it.
_RESERVED = frozenset(
    {"messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt"}
    | {"continue_final_message", "tokenize", "padding", "truncation", "max_length"}
    | {"return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
    | {"sanitize_control_tokens", "bos_token", "eos_token", "unk_token", "pad_token"}
)


def check(request: v1.GenerateRequest) -> None:
    """Refuse what no local model can do: UNSUPPORTED_FEATURE, naming the request's field."""
    _template_variables(request)
    for index, message in enumerate(request.messages):
        for place, part in enumerate(message.parts):
            field = f"messages[{index}].parts[{place}]"
            kind = part.WhichOneof("content")
            _check_kind(kind, field, _READ)
            if kind == "image":
                images.check_url(part.image, f"{field}.image")
            for inner, piece in enumerate(part.tool_result.parts):
                where = f"{field}.tool_result.parts[{inner}]"
                _check_kind(piece.WhichOneof("content"), where, _READ_IN_RESULTS)
    long = [
        Violation(f"sampling.stop[{index}]", f"has {len(stop)} characters; at most {_LONGEST_STOP}")
        for index, stop in enumerate(request.sampling.stop)
        if len(stop) > _LONGEST_STOP
    ]
    if long:
        raise Failure.invalid(long)


def _check_kind(kind: str | None, field: str, read: frozenset[str]) -> None:
    if kind not in read and kind not in _DROPPED:
        raise Failure.unsupported(
            f"{field}.{kind}",
            f"{field} is of the kind {kind!r}, which local models do not read here: leave it out, "
            "or say it in words",
        )


def make_job(
    request: v1.GenerateRequest,
    loaded: Loaded,
    deadline: float | None = None,
    caller: str = "",
) -> Job:
    """The job for a request that `check` let pass.

    Takes time in proportion to the prompt's length and the schemas' size: not for the event
    loop. ``deadline`` and ``caller`` are handed on to the engine. Raises INVALID_REQUEST (also
    where the model's chat template refuses the conversation), UNSUPPORTED_FEATURE (what this
    model cannot do, such as a conversation without a template, or a schema that it cannot be
    held to), CONTEXT_LENGTH_EXCEEDED.
    """
    _check_logit_bias(request.sampling, loaded.vocabulary)
    _check_abilities(request, loaded)
    tokenizer = loaded.tokenizer
    stop = [*request.sampling.stop, *loaded.stop]
    pictures: object = None
    constraint: Constraint | None
    if tokenizer.has_chat_template:
        prompt, pictures = _chat(request, loaded)
        limit, at_limit = _limit(request.sampling, len(prompt), loaded)
        # A chat's answer begins a text of its own; a raw one goes on in the middle of its prompt.
        text, constraint = shaping.shape(request, loaded, prompt, stop)
    else:
        prompt = _raw(request, tokenizer)
        limit, at_limit = _limit(request.sampling, len(prompt), loaded)
        text, constraint = tokenizer.text_stream(stop, prompt), shaping.held(request, loaded)
    return Job(
        prompt,
        text,
        request.sampling,
        limit=limit,
        at_limit=at_limit,
        end=loaded.end,
        constraint=constraint,
        top_logprobs=request.logprobs.top_logprobs if request.HasField("logprobs") else None,
        name=tokenizer.name,
        images=pictures,
        deadline=deadline,
        caller=caller,
    )


def _check_abilities(request: v1.GenerateRequest, loaded: Loaded) -> None:
    """Refuse what this model cannot do, before its prompt is made."""
    abilities = loaded.abilities
    thinking.check(request.thinking, abilities.tags)
    if request.HasField("logprobs") and not loaded.scores:
        raise Failure.unsupported("logprobs", "this model's engine reports no log probabilities")
    if shaping.offered(request) and not abilities.has_template:
        raise Failure.unsupported(
            "tools",
            "this model has no chat template, and so calls no tools: leave them out, or use a "
            "model that was trained for conversations",
        )
    if loaded.image_reader is None:
        for index, message in enumerate(request.messages):
            for place, part in enumerate(message.parts):
                if part.HasField("image"):
                    _check_kind("image", f"messages[{index}].parts[{place}]", frozenset())


def _chat(request: v1.GenerateRequest, loaded: Loaded) -> tuple[Sequence[int], object]:
    """The conversation's token ids, and the pictures in it."""
    tokenizer, taught = loaded.tokenizer, loaded.abilities.template_format
    tools = shaping.offered(request)
    messages = conversation(request, taught, told=() if taught else tools)
    # Templates that know no such variable ignore it.
    variables = thinking.variables(request.thinking, tokenizer.template)
    if tools and taught:
        variables["tools"] = [tool_formats.described(tool) for tool in tools]
    variables |= _template_variables(request)
    try:
        if any(isinstance(message["content"], list) for message in messages):
            assert loaded.image_reader is not None  # or it was refused
            prompt, pictures = loaded.image_reader.read(messages, **variables)
        else:
            prompt, pictures = tokenizer.encode_chat(messages, **variables), None
    except TemplateRefusal as error:
        field = "messages" if request.messages else "prompt"
        raise Failure.invalid(
            [Violation(field, f"the model's chat template does not take it: {error}")]
        ) from error
    if not prompt:
        raise _empty()
    return prompt, pictures


def _template_variables(request: v1.GenerateRequest) -> dict[str, object]:
    """What the caller sets of the chat template's variables, by ``provider_options``."""
    options = MessageToDict(request.provider_options)
    given = options.pop(_TEMPLATE_OPTION, {})
    if options:
        raise Failure.unsupported(
            "provider_options",
            f"of provider_options, local models take {_TEMPLATE_OPTION} only; leave out "
            f"{', '.join(sorted(options))}",
        )
    field = f"provider_options.{_TEMPLATE_OPTION}"
    if not isinstance(given, dict):
        raise Failure.invalid([Violation(field, "must be an object: a value for each variable")])
    wrong = [
        Violation(f"{field}.{name}", "is not a variable that a caller may set")
        for name in given
        if name in _RESERVED or not name.isidentifier()
    ]
    if wrong:
        raise Failure.invalid(wrong)
    return {name: _whole(value) for name, value in given.items()}


def _whole(value: object) -> object:
    """Numbers in a Struct are all floating-point; those that are whole were meant so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _empty() -> Failure:
    return Failure.invalid([Violation("prompt", "has no tokens for this model")])


def _raw(request: v1.GenerateRequest, tokenizer: Tokenizer) -> list[int]:
    for field in ("messages", "system"):
        if getattr(request, field):
            raise Failure.unsupported(
                field,
                "this model has no chat template: it only continues text. Send the text as "
                "prompt alone, or use a model that was trained for conversations",
            )
    prompt = tokenizer.encode(request.prompt)
    if not prompt:
        raise _empty()
    return prompt


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
