"""Requests that are nearly right, so that many of them reach a provider.

Every other one is right as far as validation goes, with odd contents; the rest is anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import strategies as st
from penstock import v1

from tests.fuzz.messages import Chosen, messages_of
from tests.fuzz.texts import json_texts, schema_texts, strings, words

_names = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
_ids = st.sampled_from(["1", "call_1", "\0", "ü", "x" * 300]) | words
_urls = st.sampled_from(
    ["https://example.com/a.png", "data:image/png;base64,AAAA", "data:,x", "http://[", "DATA:\0"]
)
_types = st.sampled_from(
    ["image/png", "image/jpeg", "audio/wav", "application/pdf", "text/plain", "IMAGE/x+y", "a/b"]
)
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ff"
    "ff3f0005fe02fea735814e0000000049454e44ae426082"
)
_data = st.sampled_from([_PNG, _PNG[:40], b"GIF89a" + b"\xff" * 10, b"\0"]) | st.binary(
    min_size=1, max_size=30
)


def _struct_values(depth: int) -> st.SearchStrategy[Any]:
    """Values as a Struct has them, NaN included."""
    leaf = st.one_of(
        st.floats(), strings, st.booleans(), st.just(None), st.integers(-(2**53), 2**53)
    )
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(strings, inner, max_size=2),
        max_leaves=depth,
    )


def _value(drawn: Any) -> Value:
    if isinstance(drawn, dict):
        fields = {key: _value(inner) for key, inner in drawn.items()}
        return Value(struct_value=Struct(fields=fields))
    if isinstance(drawn, list):
        return Value(list_value=ListValue(values=[_value(inner) for inner in drawn]))
    if drawn is None:
        return Value()
    kind = {bool: "bool_value", str: "string_value"}.get(type(drawn), "number_value")
    return Value(**{kind: drawn})


def _deep(depth: int) -> Struct:
    value = Value(number_value=1)
    for _ in range(depth):
        value = Value(list_value=ListValue(values=[value]))
    return Struct(fields={"x": value})


_OPTIONS = [
    "user", "store", "metadata", "options", "tools", "messages", "model", "stream", "n", "input",
    "temperature", "response_format", "text", "reasoning", "system", "max_tokens", "stop", "\0",
]  # fmt: skip

_structs = st.one_of(
    st.dictionaries(st.sampled_from(_OPTIONS) | strings, _struct_values(4), max_size=2).map(
        lambda drawn: Struct(fields={key: _value(inner) for key, inner in drawn.items()})
    ),
    st.sampled_from([_deep(20), _deep(44)]),
)

_texts = strings.map(lambda text: v1.Part(text=text))


def _part(kind: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[v1.Part]:
    return values.map(lambda value: v1.Part(**{kind: value}))


_images = st.one_of(
    st.builds(v1.Image, data=_data, media_type=_types, detail=st.sampled_from([0, 1, 2])),
    st.builds(v1.Image, url=_urls),
)
_documents = st.one_of(
    st.builds(v1.Document, data=_data, media_type=_types, title=strings),
    st.builds(v1.Document, url=_urls, title=strings),
    st.builds(v1.Document, file_id=words),
)
_user_parts = st.one_of(
    _texts,
    _texts,
    _part("image", _images),
    _part("audio", st.builds(v1.Audio, data=_data, media_type=_types)),
    _part("document", _documents),
)
_assistant_parts = st.one_of(
    _texts,
    _part("thinking", st.builds(v1.Thinking, text=strings, redacted=st.booleans())),
    _part("refusal", strings),
)
_results = st.one_of(_texts, _part("image", _images), _part("document", _documents))
_kept = st.builds(
    v1.ProviderData,
    provider=st.sampled_from(["openai", "anthropic", "ollama", "gemini", "x"]),
    data=json_texts.map(str.encode) | st.binary(max_size=20),
)


@st.composite
def _turns(draw: st.DrawFn) -> Sequence[v1.Message]:
    """A conversation in which every tool result answers a call, in an odd order maybe."""
    told: list[v1.Message] = []
    calls: list[str] = []
    roles = st.sampled_from(["user", "assistant", "system"])
    for role in draw(st.lists(roles, max_size=4)):
        kinds = {"user": _user_parts, "assistant": _assistant_parts}.get(role, _texts)
        parts = draw(st.lists(kinds, min_size=1, max_size=3))
        if role == "assistant" and draw(st.booleans()):
            for number in range(draw(st.integers(1, 2))):
                calls.append(f"{len(calls)}{draw(_ids)}")
                arguments = draw(json_texts) or "{}"
                call = v1.ToolCall(id=calls[-1], name=draw(_names | words), arguments=arguments)
                parts.insert(draw(st.integers(0, number)), v1.Part(tool_call=call))
        for part in parts:
            if not draw(st.integers(0, 7)):
                part.provider_data.CopyFrom(draw(_kept))
        told.append(v1.Message(role=getattr(v1, f"ROLE_{role.upper()}"), parts=parts))
        while draw(st.booleans()) and calls:
            result = v1.ToolResult(
                tool_call_id=draw(st.sampled_from(calls)),
                parts=draw(st.lists(_results, max_size=2)),
                is_error=draw(st.booleans()),
            )
            told.append(v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=result)]))
    if draw(st.booleans()):
        told.append(v1.Message(role=v1.ROLE_USER, parts=[draw(_texts)], name=draw(words)))
    return told


@st.composite
def _tools(draw: st.DrawFn) -> Sequence[v1.Tool]:
    names = draw(st.lists(_names, max_size=3, unique=True))
    return [
        v1.Tool(name=name, description=draw(strings), parameters=draw(schema_texts))
        for name in names
    ]


_formats = st.one_of(
    st.just(v1.ResponseFormat()),
    st.just(v1.ResponseFormat(json_object=v1.JsonObjectFormat())),
    schema_texts.map(lambda text: v1.ResponseFormat(json_schema=v1.JsonSchemaFormat(schema=text))),
)
_SAMPLING: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1, exclude_min=True),
    "top_k": st.integers(1, 2**31 - 1),
    "min_p": st.floats(0, 1),
    "seed": st.integers(0, 2**63 - 1),
    "stop": st.lists(strings.filter(bool), max_size=16),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(0, 10, exclude_min=True),
    "logit_bias": st.dictionaries(
        st.integers(0, 2**31 - 1) | st.integers(0, 600), st.floats(-100, 100), max_size=4
    ),
}


@st.composite
def _sampling(draw: st.DrawFn) -> v1.Sampling:
    names = draw(st.lists(st.sampled_from(sorted(_SAMPLING)), max_size=3, unique=True))
    return v1.Sampling(
        max_output_tokens=draw(st.integers(1, 12)),
        **{name: draw(_SAMPLING[name]) for name in names},
    )


@st.composite
def _likely(draw: st.DrawFn, models: Sequence[str]) -> v1.GenerateRequest:
    """A request that validation lets pass but for its texts."""
    request = v1.GenerateRequest(
        model=draw(st.sampled_from(models)),
        prompt=draw(strings) or "Hi",
        sampling=draw(_sampling()),
    )
    if draw(st.booleans()):
        request.messages.extend(draw(_turns()))
    if not draw(st.integers(0, 2)):
        request.tools.extend(draw(_tools()))
        modes = [v1.ToolChoice.MODE_AUTO, v1.ToolChoice.MODE_NONE]
        request.tool_choice.mode = draw(st.sampled_from(modes))
    if not draw(st.integers(0, 2)):
        request.response_format.CopyFrom(draw(_formats))
    if not draw(st.integers(0, 3)):
        request.system = draw(strings)
    if not draw(st.integers(0, 5)):
        request.provider_options.CopyFrom(draw(_structs))
    if not draw(st.integers(0, 5)):
        labels = st.dictionaries(words, strings.map(lambda text: text[:500]), max_size=4)
        request.metadata.update(draw(labels))
    if not draw(st.integers(0, 5)):
        request.logprobs.top_logprobs = draw(st.integers(0, 20))
    if not draw(st.integers(0, 5)):
        request.thinking.effort = draw(st.sampled_from(v1.ThinkingOptions.Effort.values()))
    return request


def requests_of(request: type[Any], models: Sequence[str]) -> st.SearchStrategy[Any]:
    """Requests of one type, with models that there are."""
    names = st.one_of(st.sampled_from(models), st.sampled_from(models), strings)
    chosen: Chosen = {
        "penstock.v1.GenerateRequest.model": names,
        "penstock.v1.GenerateRequest.prompt": strings,
        "penstock.v1.Sampling.max_output_tokens": st.integers(-1, 12),
        "penstock.v1.Tool.parameters": schema_texts,
        "penstock.v1.JsonSchemaFormat.schema": schema_texts,
        "penstock.v1.ToolCall.arguments": json_texts,
        "penstock.v1.EmbedRequest.model": names,
        "penstock.v1.EmbedRequest.inputs": st.lists(strings, min_size=1, max_size=4),
        "google.protobuf.Struct": _structs,
        **{f"penstock.v1.{kind}ModelRequest.model": names for kind in ("Get", "Load")},
    }
    anything = messages_of(request.DESCRIPTOR, chosen)
    if request is v1.GenerateRequest:
        return st.one_of(_likely(models), anything)
    if request is v1.StreamGenerateRequest:
        nearly = _likely(models).map(lambda inner: v1.StreamGenerateRequest(request=inner))
        return st.one_of(nearly, anything)
    return anything
