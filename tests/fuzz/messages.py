"""Messages of a contract, made from its descriptors: whatever a caller could send.

`messages_of` knows protobuf and nothing else. What makes a message of ours likely to get past the
validation is in ``likely``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from tests.fuzz.texts import strings

Chosen = Mapping[str, st.SearchStrategy[Any]]
"""A field's or a message's full name → what it is drawn from, instead of from anything."""

DEPTH = 5
"""How many messages are in one another, but for the deep ones of ``bytes``."""

_Field = FieldDescriptor


def _integers(low: int, high: int) -> st.SearchStrategy[int]:
    edges = st.sampled_from([low, high, max(low, -1), 0, 1])
    return st.one_of(st.integers(max(low, -3), 20), edges, st.integers(low, high))


_FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 0.5, float("nan"), float("inf"), float("-inf"), 1e308]),
    st.floats(),
)

_SCALARS: Mapping[int, st.SearchStrategy[Any]] = {
    _Field.CPPTYPE_INT32: _integers(-(2**31), 2**31 - 1),
    _Field.CPPTYPE_INT64: _integers(-(2**63), 2**63 - 1),
    _Field.CPPTYPE_UINT32: _integers(0, 2**32 - 1),
    _Field.CPPTYPE_UINT64: _integers(0, 2**64 - 1),
    _Field.CPPTYPE_DOUBLE: _FLOATS,
    _Field.CPPTYPE_FLOAT: st.floats(width=32),
    _Field.CPPTYPE_BOOL: st.booleans(),
}


@cache
def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.one_of(st.sampled_from(known), _integers(-(2**31), 2**31 - 1))
    if field.cpp_type == _Field.CPPTYPE_STRING:
        if field.type == _Field.TYPE_BYTES:
            return st.binary(max_size=40)
        return strings
    return _SCALARS[field.cpp_type]


def messages_of(
    descriptor: Descriptor, chosen: Chosen | None = None, depth: int = DEPTH
) -> st.SearchStrategy[Message]:
    """Any message of that type.

    ``chosen`` narrows fields, by their full names: a field that stands in it is mostly set.

    Example::

        @given(messages_of(v1.GenerateRequest.DESCRIPTOR))
        def test_it(request): ...
    """
    kind = message_factory.GetMessageClass(descriptor)
    return _messages(kind, chosen or {}, depth)


@st.composite
def _messages(draw: st.DrawFn, kind: type[Message], chosen: Chosen, depth: int) -> Message:
    message = kind()
    _fill(draw, message, chosen, depth)
    return message


def _fill(draw: st.DrawFn, message: Message, chosen: Chosen, depth: int) -> None:
    whole = chosen.get(message.DESCRIPTOR.full_name)
    if whole is not None:
        message.CopyFrom(draw(whole))
        return
    fields = [field for field in message.DESCRIPTOR.fields if field.message_type is None or depth]
    usual = [field for field in fields if field.full_name in chosen]
    others = [field for field in fields if field.full_name not in chosen]
    picked = [field for field in usual if draw(st.integers(0, 9))]
    if others:
        most = min(len(others), 3)
        picked += draw(st.lists(st.sampled_from(others), max_size=most, unique=True))
    for field in picked:
        _set(draw, message, field, chosen, depth)  # type: ignore[arg-type] # upb's own


def _set(
    draw: st.DrawFn, message: Message, field: FieldDescriptor, chosen: Chosen, depth: int
) -> None:
    values = chosen.get(field.full_name)
    if values is not None and field.message_type is not None and not field.is_repeated:
        getattr(message, field.name).CopyFrom(draw(values))
    elif values is not None and field.is_repeated:
        there = getattr(message, field.name)
        drawn = draw(values)
        (there.update if isinstance(drawn, dict) else there.extend)(drawn)
    elif values is not None:
        setattr(message, field.name, draw(values))
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        _map(draw, message, field, chosen, depth)
    elif field.message_type is not None and field.is_repeated:
        for _ in range(draw(st.integers(1, 3))):
            _fill(draw, getattr(message, field.name).add(), chosen, depth - 1)
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _fill(draw, inner, chosen, depth - 1)
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(_scalar(field), max_size=4)))
    else:
        setattr(message, field.name, draw(_scalar(field)))


def _map(
    draw: st.DrawFn, message: Message, field: FieldDescriptor, chosen: Chosen, depth: int
) -> None:
    entry = field.message_type
    assert entry is not None
    there = getattr(message, field.name)
    key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
    for drawn in draw(st.lists(_scalar(key), max_size=3)):
        if value.message_type is None:
            there[drawn] = draw(_scalar(value))
        else:
            _fill(draw, there[drawn], chosen, depth - 1)
