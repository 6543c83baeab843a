"""From token ids to text, piece by piece: no half characters, and stop strings cut off.

Pure: no threads, no requests. What a text means (thoughts, tool calls) is ``splitter``'s to know;
when an answer ends for other reasons than a stop string is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from penstock_server.local.stops import StopStrings

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

Decode = Callable[[Sequence[int]], str]
"""All text of some token ids at once; special tokens are left out."""

_INCOMPLETE = "\ufffd"  # what decoders show for bytes that are not (yet) a character


class Detokenizer(Protocol):
    """Turns token ids into text as they come."""

    def add(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        ...

    def flush(self) -> str:
        """What is still held back; half a character at the very end is dropped."""
        ...


class PlainDetokenizer:
    """Works with any tokenizer that can decode: decodes a sliding window twice and compares.

    ``context`` are token ids that stand before the answer, where the answer's first word would
    otherwise lose its leading space (tokenizers strip it at the start of a text).
    """

    def __init__(self, decode: Decode, context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._known = list(context)  # said already; decoding depends on what stands before
        self._held: list[int] = []

    def add(self, token: int) -> str:
        """See `Detokenizer.add`."""
        self._held.append(token)
        text = self._new_text()
        if not text or text.endswith(_INCOMPLETE):
            return ""
        self._known, self._held = self._held, []
        return text

    def flush(self) -> str:
        """See `Detokenizer.flush`."""
        text = self._new_text().rstrip(_INCOMPLETE) if self._held else ""
        self._known, self._held = self._known + self._held, []
        return text

    def _new_text(self) -> str:
        known = self._decode(self._known)
        return self._decode([*self._known, *self._held])[len(known) :]


class FastDetokenizer:
    """The same by the ``tokenizers`` library's own stream: under a microsecond a token.

    Where that stream gives up (it insists that text never changes in hindsight, which not every
    decoder keeps), the plain way takes over from the same place.
    """

    def __init__(self, tokenizer: FastTokenizer, decode: Decode, context: Sequence[int] = ()):
        # Not at the module's top: a sidecar's server listens before its tokenizer is imported.
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._decode = decode
        self._stream = DecodeStream(ids=list(context), skip_special_tokens=True)
        self._known = list(context)
        self._held: list[int] = []
        self._plain: PlainDetokenizer | None = None

    def add(self, token: int) -> str:
        """See `Detokenizer.add`."""
        if self._plain is not None:
            return self._plain.add(token)
        self._held.append(token)
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # the library raises a bare Exception here
            self._plain = PlainDetokenizer(self._decode, self._known)
            return "".join(self._plain.add(held) for held in self._held)
        if not text:
            return ""
        self._known, self._held = self._held, []
        return text

    def flush(self) -> str:
        """See `Detokenizer.flush`."""
        if self._plain is None:
            self._plain = PlainDetokenizer(self._decode, self._known)
            return "".join([*map(self._plain.add, self._held), self._plain.flush()])
        return self._plain.flush()


class MarkedDetokenizer:
    """Shows some special tokens, which others leave out, as their text.

    ``markers`` are those tokens' ids and texts; ``make`` makes what turns the others into text,
    anew after each marker, since a marker begins a text of its own.
    """

    def __init__(self, make: Callable[[], Detokenizer], markers: Mapping[int, str]) -> None:
        self._make = make
        self._markers = markers
        self._between = make()

    def add(self, token: int) -> str:
        """See `Detokenizer.add`."""
        marker = self._markers.get(token)
        if marker is None:
            return self._between.add(token)
        before = self._between.flush()
        self._between = self._make()
        return before + marker

    def flush(self) -> str:
        """See `Detokenizer.flush`."""
        return self._between.flush()


class Piece(NamedTuple):
    """More of an answer's part, told apart from the others.

    ``kind`` is "text", "thinking", "call" (a tool call begins; ``text`` is its name) or
    "arguments" (more of the latest call's).
    """

    kind: Literal["text", "thinking", "call", "arguments"]
    text: str


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same with neighbours of the same part put together, and empty ones left out."""
    whole: list[Piece] = []
    for piece in pieces:
        if not piece.text:
            continue
        if whole and whole[-1].kind == piece.kind != "call":
            whole[-1] = Piece(piece.kind, whole[-1].text + piece.text)
        else:
            whole.append(piece)
    return whole


class TextStream:
    """The text of one answer, as its tokens come, before the first stop string.

    Where the tokens' boundaries lie makes no difference; see `StopStrings` for what is held back.

    Example::

        text = TextStream(detokenizer, stop=["END"])
        said = "".join(text.add(token) for token in tokens) + text.finish()
        text.stopped  # "END", or None where no stop string came
    """

    ended = False
    """Whether the answer is complete by what it says; a plain text never is."""
    thinking_tokens = 0
    """How many of the tokens so far were thoughts."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str] = ()) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stop)

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stops.stopped

    @property
    def hidden(self) -> bool:
        """Whether what comes now is not to be shown."""
        return False

    def add(self, token: int) -> str:
        """The text that is certain now and was not before; empty after a stop string."""
        if self._stops.stopped is not None:
            return ""
        return self._stops.add(self._detokenizer.add(token))

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        if self._stops.stopped is not None:
            return ""
        text = self._stops.add(self._detokenizer.flush())
        return text if self._stops.stopped is not None else text + self._stops.flush()

    def take(self) -> Sequence[Piece]:
        """What the text since the last look means; a plain text means nothing but itself."""
        return ()
