"""From token ids to text, piece by piece: no half characters, and stop strings cut off.

Pure: no threads, no requests. When an answer ends for other reasons than a stop string is not
known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

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


class _Matcher:
    """Looks for one string in a text that comes character by character (Knuth-Morris-Pratt).

    ``matched`` is how much of the string the text so far ends with: exactly what has to be held
    back, at a cost per character that does not grow with the string.
    """

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.matched = 0
        self._shorter = [0] * len(wanted)  # [i]: the next shorter match, where i + 1 ends
        match = 0
        for i in range(1, len(wanted)):
            while match and wanted[i] != wanted[match]:
                match = self._shorter[match - 1]
            match += wanted[i] == wanted[match]
            self._shorter[i] = match

    def add(self, character: str) -> bool:
        """Whether this character completes the string."""
        while self.matched and character != self.wanted[self.matched]:
            self.matched = self._shorter[self.matched - 1]
        self.matched += character == self.wanted[self.matched]
        return self.matched == len(self.wanted)


class TextStream:
    """The text of one answer, as its tokens come.

    The answer ends before whichever of the ``stop`` strings is complete first (of two that end
    with the same character: before the longer one). Text is held back exactly while it could
    still become a stop string. Where the tokens' boundaries lie makes no difference.

    Example::

        text = TextStream(detokenizer, stop=["END"])
        said = "".join(text.add(token) for token in tokens) + text.finish()
        text.stopped  # "END", or None where no stop string came
    """

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str] = ()) -> None:
        self._detokenizer = detokenizer
        # The longest first: of those that end together, it is the one that starts first.
        self._matchers = [_Matcher(each) for each in sorted(set(stop), key=len, reverse=True)]
        self._beginnings = {matcher.wanted[0] for matcher in self._matchers}
        self._held = ""
        self.stopped: str | None = None
        """The stop string that ended the answer."""

    def add(self, token: int) -> str:
        """The text that is certain now and was not before; empty after a stop string."""
        if self.stopped is not None:
            return ""
        return self._cut(self._detokenizer.add(token))

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        if self.stopped is not None:
            return ""
        text = self._cut(self._detokenizer.flush())
        if self.stopped is None:
            text, self._held = text + self._held, ""
        return text

    def _cut(self, new: str) -> str:
        """``new`` as far as it is certain, after what was held back before it."""
        if not self._held and self._beginnings.isdisjoint(new):
            return new
        text, start = self._held + new, len(self._held)
        for end, character in enumerate(new, start + 1):
            complete = [matcher for matcher in self._matchers if matcher.add(character)]
            if complete:
                self.stopped = complete[0].wanted
                self._held = ""
                return text[: end - len(self.stopped)]
        certain = len(text) - max(matcher.matched for matcher in self._matchers)
        self._held = text[certain:]
        return text[:certain]
