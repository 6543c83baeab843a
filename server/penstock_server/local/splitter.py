"""What a text means: thoughts, tool calls, and the text that is left.

Pure. `Splitter` reads pieces of text, wherever they are cut, and gives the same parts; it holds
back only what could still be a marker, or white space that may stand before one. `ShapedText` is
the text of an answer that may hold more than text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from penstock_server.local.text import Detokenizer, Piece, TextStream, joined
from penstock_server.local.thinking import Tags
from penstock_server.local.tool_calls import CallReader
from penstock_server.local.tool_formats import ToolFormat

_Begin = Callable[[str], None]
"""What to do at a marker."""


class Splitter:
    """Tells an answer's parts apart.

    Thoughts stand at an answer's beginning, between ``tags`` (None: there are none); ``thinking``
    says that the prompt has opened them already. Tool calls are looked for in the ``format_``
    (None: there are none) and may call ``names``; ``single``: the answer is over after one.
    White space at the edges of thoughts and around calls belongs to neither; that in a text
    without either is kept as it is.

    Example::

        splitter = Splitter(tags=TAGS[0])
        splitter.add("<think>Hm.</th") + splitter.add("ink>\\n\\nYes.") + splitter.finish()
        # [Piece("thinking", "Hm."), Piece("text", "Yes.")]
    """

    def __init__(
        self,
        tags: Tags | None = None,
        format_: ToolFormat | None = None,
        names: Collection[str] = (),
        *,
        thinking: bool = False,
        single: bool = False,
    ) -> None:
        self._tags = tags
        self._format = format_
        self._names = names
        self._single = single
        self._pieces: list[Piece] = []
        self._unread: deque[str] = deque()
        self._held = ""  # the beginning of a marker
        self._space = ""  # white space that may stand before one
        self._skip_space = thinking
        self._reader: CallReader | None = None
        self._marker = ""  # before what the reader reads
        self.thinking = thinking
        """Whether what comes now is a thought."""
        self.ended = False
        """Whether the answer is over: it has called the one tool that it may."""
        self._markers: dict[str, _Begin] = {}
        if thinking:
            self._within_thought()
        else:
            self._at_the_beginning(tags)

    def add(self, text: str) -> list[Piece]:
        """What is certain now and was not before."""
        if not (self._held or self._reader or self._begins(text) or self.ended):
            self._say(text)  # the common case, at once
        else:
            self._unread.extend(text)
            self._read()
        return self._take()

    def finish(self) -> list[Piece]:
        """What was held back, once no more text comes."""
        while self._reader is not None:
            self._reader.finish()
            self._leave_call()
            self._read()
        if not self.ended:
            self._say(self._held)
            if self._space and not self.thinking:
                self._pieces.append(Piece("text", self._space))
        self._held = self._space = ""
        return self._take()

    def _take(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return joined(pieces)

    def _begins(self, text: str) -> bool:
        return self._opening or any(marker[0] in text for marker in self._markers)

    def _read(self) -> None:
        while self._unread and not self.ended:
            character = self._unread.popleft()
            if self._reader is None:
                self._match(character)
            elif self._reader.add(character):
                self._leave_call()

    def _match(self, character: str) -> None:
        """Look for a marker; what cannot be one any more is said."""
        self._held += character
        while self._held:
            if self._held in self._markers:
                marker, self._held = self._held, ""
                self._markers[marker](marker)
                return
            if any(marker.startswith(self._held) for marker in self._markers):
                return
            self._say(self._held[0])
            self._held = self._held[1:]

    def _say(self, text: str) -> None:
        """More of a thought or of the text; white space once more than that follows it."""
        if self._skip_space:
            text = text.lstrip()
        if not text:
            return
        kind: Literal["thinking", "text"] = "thinking" if self.thinking else "text"
        body = text.rstrip() if self._markers or self._opening else text
        if body:
            self._pieces.append(Piece(kind, self._space + body))
            self._space = ""
            self._skip_space = False
            if self._opening:
                self._within_text()
        self._space += text[len(body) :]

    # Where it stands, and so what may begin there.

    def _at_the_beginning(self, tags: Tags | None) -> None:
        self._within_text()
        self._opening = True
        if tags is not None:
            self._markers[tags.open] = lambda marker: self._within_thought()
        if self._format is not None and self._format.bare:
            self._markers["{"] = self._begin_call

    def _within_text(self) -> None:
        self._opening = False
        self._markers = {} if self._format is None else {self._format.open: self._begin_call}

    def _within_thought(self) -> None:
        assert self._tags is not None
        self.thinking = self._skip_space = True
        self._opening = False
        self._space = ""
        self._markers = {self._tags.close: self._end_thought}

    def _end_thought(self, marker: str) -> None:
        self.thinking = False
        self._space = ""
        self._skip_space = True
        self._at_the_beginning(None)

    def _begin_call(self, marker: str) -> None:
        assert self._format is not None
        bare = marker != self._format.open
        self._marker = "" if bare else marker
        self._reader = CallReader(
            self._format, self._names, self._on_call, bare=bare, single=self._single
        )
        if bare:  # its marker is the object's own beginning
            self._unread.appendleft(marker)

    def _on_call(self, piece: Piece) -> None:
        self._space = ""
        self._pieces.append(piece)

    def _leave_call(self) -> None:
        reader, self._reader = self._reader, None
        assert reader is not None
        self._within_text()
        if reader.began:
            self._skip_space = True
            self.ended = self._single and reader.calls > 0
        else:
            self._say(self._marker)
        self._unread.extendleft(reversed(reader.rest))


class ShapedText(TextStream):
    """The text of an answer that may hold thoughts and tool calls, before the first stop string.

    Stop strings are looked for in the text alone, not across or inside a thought or a call. What
    `add` and `finish` return is the pieces' texts, put together; `take` tells them apart.
    ``hide``: thoughts are counted, but left out.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stop: Sequence[str],
        splitter: Splitter,
        *,
        hide: bool = False,
    ) -> None:
        super().__init__(detokenizer, stop)
        self._splitter = splitter
        self._hide = hide
        self._kept: list[Piece] = []

    @property
    def thinking(self) -> bool:
        """Whether what comes now is a thought."""
        return self._splitter.thinking

    @property
    def hidden(self) -> bool:
        """See `TextStream.hidden`."""
        return self._hide and self._splitter.thinking

    def add(self, token: int) -> str:
        """See `TextStream.add`."""
        if self.stopped is not None:
            return ""
        before = self._splitter.thinking
        text = self._detokenizer.add(token)
        pieces = self._splitter.add(text) if text else ()
        self.thinking_tokens += before or self._splitter.thinking
        self.ended = self._splitter.ended
        return self._keep(pieces)

    def finish(self) -> str:
        """See `TextStream.finish`."""
        if self.stopped is not None:
            return ""
        text = self._keep(self._splitter.add(self._detokenizer.flush()))
        text += self._keep(self._splitter.finish())
        return text if self.stopped is not None else text + self._let_go()

    def take(self) -> Sequence[Piece]:
        """The pieces since the last look."""
        pieces, self._kept = self._kept, []
        return joined(pieces)

    def _keep(self, pieces: Sequence[Piece]) -> str:
        kept = ""
        for piece in pieces:
            if self.stopped is not None:
                break
            if piece.kind == "thinking" and self._hide:
                continue
            if piece.kind == "text":
                text = self._stops.add(piece.text)
                self._kept.append(Piece("text", text))
                kept += text
            else:
                kept += self._let_go() + piece.text
                self._kept.append(piece)
        return kept

    def _let_go(self) -> str:
        """What could have become a stop string, and now does not."""
        text = self._stops.flush()
        self._kept.append(Piece("text", text))
        return text
