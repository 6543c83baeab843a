"""Tool calls in a text that comes piece by piece: where they begin, what they are called, and
their arguments, byte for byte.

Pure. `CallReader` reads characters one after the other, so where the pieces' boundaries lie can
make no difference. What is no call after all comes back as it was: nothing is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Generator

from penstock_server.local.text import Piece
from penstock_server.local.tool_formats import ToolFormat

_Reader = Generator[None, str, str]
"""Is sent characters; what it returns is the first one that it did not want, if there is one."""

_SPACE = " \t\r\n"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_NAME = 256  # characters read in search of a name's end
# What models write into a call's object besides its name and arguments.
_OTHER_KEYS = frozenset({"id", "type", "tool_call_id"})
_ARGUMENTS = frozenset({"arguments", "parameters"})


class _Malformed(Exception):
    """It is no call."""


class CallReader:
    """Reads the calls that follow a format's ``open``, or a bare object.

    ``names`` are the tools; an unmarked (``bare``) object is a call only where it names one of
    them, since it may as well be the JSON that was asked for. ``emit`` gets the pieces.

    Example::

        reader = CallReader(HERMES, {"add"}, pieces.append)
        for character in '{"name": "add", "arguments": {"a": 1}}</tool_call>':
            if reader.add(character): break
    """

    def __init__(
        self,
        format_: ToolFormat,
        names: Collection[str],
        emit: Callable[[Piece], None],
        *,
        bare: bool = False,
        single: bool = False,
    ) -> None:
        self._format = format_
        self._names = names
        self._emit = emit
        self._bare = bare
        self._single = single
        self._open = False  # announced, and its arguments are not complete
        self._raw: list[str] = []  # since the beginning, or since the latest arguments' end
        self.calls = 0
        """How many calls are complete."""
        self.began = False
        """Whether a call was made out, complete or not."""
        self.rest = ""
        """What was read last and belongs to no call: all of it, where the call was malformed."""
        self._reader = self._calls()
        next(self._reader)

    def add(self, character: str) -> bool:
        """Whether reading ends here: the calls are complete, or what came is none (`rest`)."""
        self._raw.append(character)
        try:
            self._reader.send(character)
        except StopIteration as end:
            self.rest = end.value
            return True
        except _Malformed:
            self.rest = "".join(self._raw)
            return True
        return False

    def finish(self) -> None:
        """No more comes: `rest` is what belongs to no call, where that is more than punctuation."""
        self._reader.close()
        rest = "" if self._open else "".join(self._raw)
        envelope = rest.strip(_SPACE + ",;]}")
        self.rest = "" if self.calls and self._format.close.startswith(envelope) else rest

    def _call(self, name: str) -> None:
        self._open = self.began = True
        self._emit(Piece("call", name))

    def _more(self, text: str) -> None:
        self._emit(Piece("arguments", text))

    def _complete(self) -> None:
        self._open = False
        self.calls += 1
        self._raw.clear()

    def _checked(self, name: str) -> str:
        if not _NAME.fullmatch(name) or (self._bare and name not in self._names):
            raise _Malformed
        return name

    def _calls(self) -> _Reader:
        character = yield from _after_space()
        if character == "[" and self._format.shape != "named" and not self._bare:
            yield from self._list()
        elif character == "{":
            yield from self._object()
        elif self._format.shape == "named":
            yield from self._named(character)
        else:
            raise _Malformed
        if self._single or not self._format.close:
            return ""
        # Only the closing marker is the call's; where it is missing, what comes is the answer's.
        seen = ""
        for wanted in self._format.close:
            character = yield
            while not seen and character in _SPACE:
                character = yield
            seen += character
            if character != wanted:
                return seen
        return ""

    def _list(self) -> _Reader:
        while True:
            character = yield from _after_space()
            if character != "{":
                raise _Malformed
            yield from self._object()
            if self._single:
                return ""
            character = yield from _after_space()
            if character == "]":
                return ""
            if character != ",":
                raise _Malformed

    def _object(self) -> _Reader:
        """The object's inside, up to and with its brace."""
        name = ""
        held: list[str] = []  # arguments that came before the name
        called = False
        character = yield from _after_space()
        while character != "}":
            if character != '"':
                raise _Malformed
            key = yield from _string()
            if (yield from _after_space()) != ":":
                raise _Malformed
            character = yield from _after_space()
            if key == "name" and not name and character == '"':
                name = self._checked((yield from _string()))
                character = ""
            elif key in _ARGUMENTS and not called and not held:
                if name and character in "{[":
                    called = True
                    self._call(name)
                    character = yield from _value(character, self._more)
                    self._complete()
                else:
                    character = yield from _value(character, held.append)
            elif key in _OTHER_KEYS:
                character = yield from _value(character, lambda more: None)
            else:
                raise _Malformed
            if name and held and not called:
                called = True
                self._whole(name, _arguments("".join(held)))
            if not character or character in _SPACE:
                character = yield from _after_space()
            if character == ",":
                character = yield from _after_space()
            elif character != "}":
                raise _Malformed
        if not called:
            if not name or self._bare:
                raise _Malformed
            self._whole(name, "{}")
        self._raw.clear()
        return ""

    def _whole(self, name: str, arguments: str) -> None:
        self._call(name)
        self._more(arguments)
        self._complete()

    def _named(self, character: str) -> _Reader:
        """``name[ARGS]{…}``, also with an id between, which is the model's own affair."""
        head = ""
        while character != "{":
            head += character
            if len(head) > _MAX_NAME:
                raise _Malformed
            character = yield
        name = head.strip().removesuffix(self._format.separator).partition("[CALL_ID]")[0]
        self._call(self._checked(name.strip()))
        yield from _value(character, self._more)
        self._complete()
        return ""


def _after_space() -> _Reader:
    """The first character that is no white space."""
    while (character := (yield)) in _SPACE:
        pass
    return character


def _string() -> _Reader:
    """A JSON string's value, whose opening quote has been read."""
    held = ['"']
    yield from _string_rest(held)
    try:
        value = json.loads("".join(held), strict=False)
    except ValueError:
        raise _Malformed from None
    return str(value)


def _string_rest(held: list[str]) -> _Reader:
    escaped = False
    while True:
        character = yield
        held.append(character)
        if character == '"' and not escaped:
            return ""
        escaped = character == "\\" and not escaped


def _value(character: str, sink: Callable[[str], None]) -> _Reader:
    """A JSON value that begins with ``character``, handed on as it is.

    Returns the character that ended it where that is not its own, as for a number; else "".
    """
    if character in "{[":
        depth = 0
        in_string = escaped = False
        while True:
            sink(character)
            if in_string:
                if character == '"' and not escaped:
                    in_string = False
                escaped = character == "\\" and not escaped
            elif character == '"':
                in_string = True
                escaped = False
            elif character in "{[":
                depth += 1
            elif character in "}]":
                depth -= 1
                if depth == 0:
                    break
            character = yield
    elif character == '"':
        held = [character]
        yield from _string_rest(held)
        sink("".join(held))
    else:
        scalar = ""
        while character not in _SPACE + ",}]":
            scalar += character
            if len(scalar) > _MAX_NAME:
                raise _Malformed
            character = yield
        if not scalar:
            raise _Malformed
        sink(scalar)
        return character
    return ""


def _arguments(raw: str) -> str:
    """Arguments as the model wrote them; what it wrote in a string, as some do; none: ``{}``."""
    if raw == "null":
        return "{}"
    if raw.startswith('"'):
        try:
            return str(json.loads(raw, strict=False)) or "{}"
        except ValueError:
            return raw
    return raw
