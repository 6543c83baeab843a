"""What is wrong with a request, before any provider sees it: every wrong field at once.

Only what is wrong for every model is refused here. What one model cannot do is its provider's
to refuse, with UNSUPPORTED_FEATURE.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from penstock import v1

from penstock_server import schemas
from penstock_server.errors import Violation

# Field of Sampling -> the smallest and the largest value, and whether the smallest itself is out.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "max_output_tokens": (1, float("inf"), False),
    "temperature": (0, 2, False),
    "top_p": (0, 1, True),
    "top_k": (1, float("inf"), False),
    "min_p": (0, 1, False),
    "seed": (0, float("inf"), False),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
    "repetition_penalty": (0, 10, True),
}

# Who may say what.
_PARTS: dict[int, frozenset[str]] = {
    v1.ROLE_SYSTEM: frozenset({"text"}),
    v1.ROLE_USER: frozenset({"text", "image", "audio", "document"}),
    v1.ROLE_ASSISTANT: frozenset({"text", "thinking", "refusal", "tool_call"}),
    v1.ROLE_TOOL: frozenset({"tool_result"}),
}
_RESULT_PARTS = frozenset({"text", "image", "document"})

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+", re.IGNORECASE)
_URL = re.compile(r"(https?://|data:)\S+", re.IGNORECASE)

MAX_NAME = 512
MAX_SCHEMAS = 1024 * 1024
"""How many characters all of a request's schemas may have: to check them takes time."""
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_LABELS = 16
MAX_INPUTS = 2_048


def model_name(name: str, path: str = "") -> Iterator[Violation]:
    """What is wrong with a model's name."""
    if not name:
        yield Violation(f"{path}model", 'is required: "provider/model", such as "local/tiny"')
    elif len(name) > MAX_NAME:
        yield Violation(
            f"{path}model", f"has {len(name)} characters; at most {MAX_NAME} are allowed"
        )


def provider_name(name: str) -> Iterator[Violation]:
    """What is wrong with a provider's name; none is all of them."""
    if len(name) > MAX_NAME:
        yield Violation("provider", f"has {len(name)} characters; at most {MAX_NAME} are allowed")


def generate_request(request: v1.GenerateRequest, path: str = "") -> Iterator[Violation]:
    """What is wrong with a GenerateRequest; ``path`` is put before the fields' names."""
    yield from model_name(request.model, path)
    if not request.prompt and not request.messages:
        yield Violation(f"{path}prompt", "is required where messages is empty")
    yield from _messages(request.messages, path)
    size = sum(len(tool.parameters) for tool in request.tools)
    size += len(request.response_format.json_schema.schema)
    if size > MAX_SCHEMAS:
        yield Violation(
            f"{path}tools",
            f"and response_format have schemas of {size:,} characters; "
            f"at most {MAX_SCHEMAS:,} are allowed",
        )
        return
    yield from _tools(request, path)
    yield from _response_format(request.response_format, f"{path}response_format.")
    yield from _sampling(request.sampling, f"{path}sampling.")
    yield from _thinking(request.thinking, f"{path}thinking.")
    top = request.logprobs.top_logprobs
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        yield Violation(
            f"{path}logprobs.top_logprobs", f"must be between 0 and {MAX_TOP_LOGPROBS}, is {top}"
        )
    yield from _labels(request, path)


def embed_request(request: v1.EmbedRequest) -> Iterator[Violation]:
    """What is wrong with an EmbedRequest."""
    yield from model_name(request.model)
    if not 1 <= len(request.inputs) <= MAX_INPUTS:
        yield Violation(
            "inputs", f"must hold between 1 and {MAX_INPUTS} texts, holds {len(request.inputs)}"
        )
    for index, text in enumerate(request.inputs):
        if not text:
            yield Violation(f"inputs[{index}]", "is empty")
    if request.HasField("dimensions") and request.dimensions < 1:
        yield Violation("dimensions", f"must be at least 1, is {request.dimensions}")


def _messages(messages: Iterable[v1.Message], path: str) -> Iterator[Violation]:
    calls: set[str] = set()
    for index, message in enumerate(messages):
        where = f"{path}messages[{index}]."
        allowed = _PARTS.get(message.role)
        if allowed is None:
            yield _unknown_enum(f"{where}role", message.role, v1.Role)
        if not message.parts:
            yield Violation(f"{where}parts", "is empty: a message needs at least one part")
        if len(message.name) > 64:
            yield Violation(f"{where}name", "is longer than 64 characters")
        for place, part in enumerate(message.parts):
            part_path = f"{where}parts[{place}]"
            yield from _part(part, part_path, allowed, message.role)
            yield from _tool_traffic(part, part_path, calls)


def _part(
    part: v1.Part, path: str, allowed: frozenset[str] | None, role: v1.Role.ValueType
) -> Iterator[Violation]:
    kind = part.WhichOneof("content")
    if kind is None:
        if not part.HasField("provider_data"):
            kinds = ", ".join(sorted(allowed or ()))
            yield Violation(path, f"has no content; set one of {kinds or 'its kinds'}")
        return
    if allowed is not None and kind not in allowed:
        who = v1.Role.Name(role)
        yield Violation(
            f"{path}.{kind}", f"is not for {who}, which takes {', '.join(sorted(allowed))}"
        )
    if kind == "image":
        yield from _image(part.image, f"{path}.image")
    elif kind == "audio":
        yield from _bytes(part.audio.data, part.audio.media_type, f"{path}.audio")
    elif kind == "document":
        yield from _document(part.document, f"{path}.document")
    elif kind == "tool_result":
        for index, inner in enumerate(part.tool_result.parts):
            yield from _part(
                inner, f"{path}.tool_result.parts[{index}]", _RESULT_PARTS, v1.ROLE_TOOL
            )


def _tool_traffic(part: v1.Part, path: str, calls: set[str]) -> Iterator[Violation]:
    """A tool's result answers a call made before it; ``calls`` collects their ids."""
    if part.HasField("tool_call"):
        call = part.tool_call
        for name in ("id", "name", "arguments"):
            if not getattr(call, name):
                yield Violation(f"{path}.tool_call.{name}", "is required")
        if call.id in calls:
            yield Violation(f"{path}.tool_call.id", f"{call.id!r} is used twice")
        calls.add(call.id)
    elif part.HasField("tool_result"):
        answered = part.tool_result.tool_call_id
        if answered not in calls:
            problem = f"no earlier tool call has the id {answered!r}" if answered else "is required"
            yield Violation(f"{path}.tool_result.tool_call_id", problem)


def _image(image: v1.Image, path: str) -> Iterator[Violation]:
    if image.detail not in v1.ImageDetail.values():
        yield _unknown_enum(f"{path}.detail", image.detail, v1.ImageDetail)
    if image.WhichOneof("source") == "url":
        yield from _url(image.url, path)
    else:
        yield from _bytes(image.data, image.media_type, path)


def _document(document: v1.Document, path: str) -> Iterator[Violation]:
    source = document.WhichOneof("source")
    if source == "url":
        yield from _url(document.url, path)
    elif source == "file_id":
        if not document.file_id:
            yield Violation(f"{path}.file_id", "is empty")
    else:
        yield from _bytes(document.data, document.media_type, path)


def _url(url: str, path: str) -> Iterator[Violation]:
    if not _URL.fullmatch(url):
        yield Violation(f"{path}.url", "must be an https: or data: URL")


def _bytes(data: bytes, media_type: str, path: str) -> Iterator[Violation]:
    if not data:
        yield Violation(f"{path}.data", "is empty")
    if not _MEDIA_TYPE.fullmatch(media_type):
        yield Violation(
            f"{path}.media_type", f'must be a media type such as "image/png", is {media_type!r}'
        )


def _tools(request: v1.GenerateRequest, path: str) -> Iterator[Violation]:
    names: set[str] = set()
    for index, tool in enumerate(request.tools):
        where = f"{path}tools[{index}]."
        if not _NAME.fullmatch(tool.name):
            yield Violation(
                f"{where}name", f'must be 1 to 64 letters, digits, "_" or "-", is {tool.name!r}'
            )
        elif tool.name in names:
            yield Violation(f"{where}name", f"{tool.name!r} is used twice")
        names.add(tool.name)
        if tool.parameters:
            yield from _schema(tool.parameters, f"{where}parameters")
    choice = request.tool_choice
    where = f"{path}tool_choice."
    if choice.mode not in v1.ToolChoice.Mode.values():
        yield _unknown_enum(f"{where}mode", choice.mode, v1.ToolChoice.Mode)
    elif choice.mode == v1.ToolChoice.MODE_TOOL and choice.tool_name not in names:
        yield Violation(f"{where}tool_name", f"no tool is named {choice.tool_name!r}")
    elif choice.mode != v1.ToolChoice.MODE_TOOL and choice.tool_name:
        yield Violation(f"{where}tool_name", "goes with MODE_TOOL only")
    elif choice.mode == v1.ToolChoice.MODE_REQUIRED and not names:
        yield Violation(f"{where}mode", "MODE_REQUIRED needs tools")


def _response_format(form: v1.ResponseFormat, path: str) -> Iterator[Violation]:
    if form.WhichOneof("format") != "json_schema":
        return
    wanted = form.json_schema
    if wanted.name and not _NAME.fullmatch(wanted.name):
        yield Violation(
            f"{path}json_schema.name",
            f'must be 1 to 64 letters, digits, "_" or "-", is {wanted.name!r}',
        )
    if wanted.schema:
        yield from _schema(wanted.schema, f"{path}json_schema.schema")
    else:
        yield Violation(f"{path}json_schema.schema", "is required")


def _schema(text: str, path: str) -> Iterator[Violation]:
    if problem := schemas.problem(text):
        yield Violation(path, problem)


def _sampling(sampling: v1.Sampling, path: str) -> Iterator[Violation]:
    for name, (low, high, open_low) in _RANGES.items():
        if not sampling.HasField(name):  # type: ignore[arg-type] # the table's keys are fields
            continue
        value: float = getattr(sampling, name)
        # Comparisons with NaN are false: NaN is out of every range.
        if not (low < value <= high if open_low else low <= value <= high):
            yield Violation(f"{path}{name}", f"must be {_range(low, high, open_low)}, is {value:g}")
    if len(sampling.stop) > MAX_STOPS:
        yield Violation(f"{path}stop", f"has {len(sampling.stop)} strings; at most {MAX_STOPS}")
    for index, stop in enumerate(sampling.stop):
        if not stop:
            yield Violation(f"{path}stop[{index}]", "is empty")
    for token, bias in sampling.logit_bias.items():
        if token < 0 or not -100 <= bias <= 100:
            yield Violation(
                f"{path}logit_bias[{token}]",
                f"needs a token id of at least 0 and a bias between -100 and 100, is {bias:g}",
            )


def _range(low: float, high: float, open_low: bool) -> str:
    if high == float("inf"):
        return f"at least {low:g}"
    if open_low:
        return f"greater than {low:g} and at most {high:g}"
    return f"between {low:g} and {high:g}"


def _thinking(thinking: v1.ThinkingOptions, path: str) -> Iterator[Violation]:
    if thinking.effort not in v1.ThinkingOptions.Effort.values():
        yield _unknown_enum(f"{path}effort", thinking.effort, v1.ThinkingOptions.Effort)
    if thinking.WhichOneof("amount") == "budget_tokens" and thinking.budget_tokens < 1:
        yield Violation(f"{path}budget_tokens", f"must be at least 1, is {thinking.budget_tokens}")


def _labels(request: v1.GenerateRequest, path: str) -> Iterator[Violation]:
    if len(request.metadata) > MAX_LABELS:
        yield Violation(
            f"{path}metadata", f"has {len(request.metadata)} labels; at most {MAX_LABELS}"
        )
    for key, value in request.metadata.items():
        if not 1 <= len(key) <= 64:
            yield Violation(f"{path}metadata", "keys must have 1 to 64 characters")
        if len(value) > 512:
            yield Violation(f"{path}metadata[{key!r}]", "is longer than 512 characters")


def _unknown_enum(field: str, value: int, enum: type) -> Violation:
    # The generated enum wrappers have keys() without a common type to name.
    names = [name for name in enum.keys() if not name.endswith("_UNSPECIFIED")]  # type: ignore[attr-defined] # noqa: SIM118
    what = "is required" if value == 0 else f"has the unknown value {value}"
    return Violation(field, f"{what}; one of {', '.join(names)}")
