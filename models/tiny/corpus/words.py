"""Small helpers shared by the grammar: types, articles, made-up words and template filling."""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple, TypedDict


class Message(TypedDict):
    """One message of a conversation, in the shape chat templates expect."""

    role: str
    content: str


class Exchange(NamedTuple):
    """One question of the user and the answer the model shall learn."""

    question: str
    answer: str


OPENINGS = ("",) * 12 + ("Sure. ", "Of course. ", "Good question. ", "Gladly. ")

Kind = Callable[[Random], Exchange]

_ONSETS = (
    "b", "br", "d", "dr", "f", "fl", "g", "gr", "k", "kl", "l", "m", "n", "p", "pr", "qu", "r", "s",
    "sk", "st", "t", "tr", "v", "w", "x", "z", "sh", "ch", "th", "",
)  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou", "y", "oo")
_CODAS = ("", "", "n", "r", "l", "m", "x", "st", "nk", "t", "s", "ck", "rd", "lt", "ng")


def with_article(noun: str) -> str:
    """Return the noun with "a" or "an" in front of it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def capitalised(text: str) -> str:
    """Return the text with a capital first letter, leaving the rest as it is."""
    return text[:1].upper() + text[1:]


def fill(rng: Random, templates: Sequence[str], **slots: object) -> str:
    """Choose one template and fill in its slots."""
    return rng.choice(templates).format(**slots)


def opening(rng: Random) -> str:
    """Return the friendly beginning that some answers have, mostly an empty one."""
    return rng.choice(OPENINGS)


def invented_word(rng: Random) -> str:
    """Return a pronounceable word that means nothing, such as "drounkel"."""
    syllables = rng.choice((1, 2, 2, 2, 3))
    word = "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables)
    )
    return word if len(word) > 2 else word + "zor"
