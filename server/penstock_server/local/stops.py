"""Stop strings: what stands before the first of them, with nothing held back needlessly.

Pure: pieces of text in, text out. Which text they apply to is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence


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


class StopStrings:
    """Cuts a text that comes piece by piece before whichever stop string is complete first.

    Of two that end with the same character the longer one counts. Text is held back exactly
    while it could still become a stop string. Where the pieces' boundaries lie makes no
    difference.

    Example::

        stops = StopStrings(["END"])
        said = stops.add("one E") + stops.add("ND two")  # "one "
        stops.stopped  # "END"
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        # The longest first: of those that end together, it is the one that starts first.
        self._matchers = [_Matcher(each) for each in sorted(set(stop), key=len, reverse=True)]
        self._beginnings = {matcher.wanted[0] for matcher in self._matchers}
        self._held = ""
        self.stopped: str | None = None
        """The stop string that was found."""

    def add(self, new: str) -> str:
        """The text that is certain now and was not before; empty after a stop string."""
        if self.stopped is not None:
            return ""
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

    def flush(self) -> str:
        """What is held back, where the text ends or is interrupted here: no match spans this."""
        text, self._held = self._held, ""
        for matcher in self._matchers:
            matcher.matched = 0
        return text
