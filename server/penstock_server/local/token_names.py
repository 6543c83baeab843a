"""What single tokens are called: their text, and their bytes where the vocabulary tells.

For log probabilities. Text that comes token by token is ``text``'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes with (GPT-2's table)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_level()


def _of_byte_level(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)


def _of_byte_fallback(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()


# What stands in a decoder's description → how its vocabulary writes bytes.
_KINDS: dict[str, Callable[[str], bytes]] = {
    "ByteLevel": _of_byte_level,
    "ByteFallback": _of_byte_fallback,
}


class TokenNames:
    """The names of one vocabulary's tokens, kept once they were asked for.

    ``tokenizer`` is a transformers tokenizer, ``fast`` what the ``tokenizers`` library has of it
    (None: nothing, and then bytes are not known).

    Example::

        TokenNames(tokenizer, tokenizer.backend_tokenizer)(17)  # (" the", b" the")
    """

    def __init__(self, tokenizer: Any, fast: Any) -> None:
        self._tokenizer = tokenizer
        self._fast = fast
        self._added = getattr(tokenizer, "added_tokens_decoder", {})
        decoder = getattr(fast, "decoder", None)
        description = decoder.__getstate__().decode() if decoder is not None else ""
        self._bytes = next((of for kind, of in _KINDS.items() if kind in description), None)
        self._known: dict[int, tuple[str, bytes]] = {}

    def __call__(self, token: int) -> tuple[str, bytes]:
        """A token's text and bytes."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._name(token)
        return known

    def _name(self, token: int) -> tuple[str, bytes]:
        if token in self._added:
            text = str(self._added[token].content)
            return text, text.encode()
        written = self._fast.id_to_token(token) if self._fast is not None else None
        if written is not None and self._bytes is not None:
            try:
                raw = self._bytes(written)
            except KeyError:  # a token that was not written in bytes
                raw = written.encode()
            return raw.decode("utf-8", "replace"), raw
        try:
            return str(self._tokenizer.decode([token])), b""
        except Exception:  # an id that the model has a score for, and the tokenizer no token
            return "", b""
