"""Text from tokens: whole characters, and exactly what stands before the first stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_server.local.text import FastDetokenizer, PlainDetokenizer, TextStream
from penstock_server.local.tokenizer import Tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from tests.sidecars import vocabularies

# Few characters, so that stop strings do come up; some of several bytes.
letters = st.sampled_from("aab é日🦊")
texts = st.text(letters, max_size=40)
stops = st.lists(st.text(letters, min_size=1, max_size=5), max_size=4)


def before_stop(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """What stands before the stop string that is complete first, by trying every end."""
    for end in range(1, len(text) + 1):
        for wanted in sorted(stop, key=len, reverse=True):
            if text[:end].endswith(wanted):
                return text[: end - len(wanted)], wanted
    return text, None


def could_become_stop(text: str, stop: Sequence[str]) -> int:
    """How many characters at the text's end begin some stop string."""
    begun = [wanted[:size] for wanted in stop for size in range(1, len(wanted))]
    return max((len(start) for start in begun if text.endswith(start)), default=0)


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """A text, and its bytes cut into tokens anywhere, also within a character."""
    text = draw(texts)
    raw = text.encode()
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(raw) - 1)))))
    bounds = [0, *(cut for cut in cuts if cut < len(raw)), len(raw)]
    return text, [raw[a:b] for a, b in pairwise(bounds) if b > a]


def over(tokens: Sequence[bytes]) -> PlainDetokenizer:
    """A detokenizer for tokens that are any bytes; a token's id is its place."""
    return PlainDetokenizer(lambda ids: b"".join(tokens[i] for i in ids).decode("utf-8", "replace"))


@given(cut_texts(), stops)
def test_what_is_said_is_what_stands_before_the_first_stop(
    cut: tuple[str, list[bytes]], stop: list[str]
) -> None:
    text, tokens = cut
    stream = TextStream(over(tokens), stop)
    said = "".join(stream.add(token) for token in range(len(tokens))) + stream.finish()
    assert (said, stream.stopped) == before_stop(text, stop)


@given(cut_texts(), stops)
def test_no_half_character_and_nothing_held_back_that_need_not_be(
    cut: tuple[str, list[bytes]], stop: list[str]
) -> None:
    _, tokens = cut
    stream = TextStream(over(tokens), stop)
    said = ""
    for token in range(len(tokens)):
        said += stream.add(token)
        assert "\ufffd" not in said
        if stream.stopped is not None:
            return
        raw = b"".join(tokens[: token + 1])
        known = raw.decode("utf-8", "ignore")
        if known.encode() == raw:  # else the last character is incomplete, and all waits for it
            assert said == known[: len(known) - could_become_stop(known, stop)]


@pytest.mark.parametrize(
    ("text", "stop", "said", "stopped"),
    [
        ("one STOP two", ["STOP"], "one ", "STOP"),
        ("abcd", ["abcd", "bc"], "a", "bc"),  # complete first
        ("xabc", ["bc", "abc"], "x", "abc"),  # complete together: the longer one
        ("aab", ["ab"], "a", "ab"),  # a match that begins within another's beginning
        ("ab", ["abc"], "ab", None),  # held back, and let go at the end
        ("", ["a"], "", None),
        ("🦊", ["🦊"], "", "🦊"),
    ],
)
def test_stop_strings(text: str, stop: list[str], said: str, stopped: str | None) -> None:
    tokens = [character.encode() for character in text]
    stream = TextStream(over(tokens), stop)
    pieces = [stream.add(token) for token in range(len(tokens))]
    assert ("".join(pieces) + stream.finish(), stream.stopped) == (said, stopped)
    assert stream.finish() == ""


def test_nothing_is_said_after_a_stop_string() -> None:
    stream = TextStream(over([b"a", b".", b"b"]), ["."])
    assert [stream.add(token) for token in range(3)] == ["a", "", ""]


def test_a_stop_string_that_only_the_flush_completes() -> None:
    tokens = [b"a", b"\xe2\x82"]  # ends in the middle of a character: "a" was not yet said
    stream = TextStream(over([tokens[0] + tokens[1]]), ["a"])
    assert (stream.add(0) + stream.finish(), stream.stopped) == ("", "a")


def test_half_a_character_at_the_very_end_is_dropped() -> None:
    stream = TextStream(over([b"ok", b"\xf0\x9f"]))
    assert stream.add(0) + stream.add(1) + stream.finish() == "ok"


vocabulary = st.sampled_from(
    [vocabularies.byte_level, vocabularies.byte_fallback, vocabularies.word_pieces]
)


@given(vocabulary, st.data())
def test_real_tokenizers_give_the_same_piecewise_as_at_once(
    make: Callable[[], Backend], data: st.DataObject
) -> None:
    backend = make()
    token = st.integers(0, backend.get_vocab_size() - 1)
    tokens = data.draw(st.lists(token, max_size=30))
    context = data.draw(st.lists(token, max_size=3))

    def decode(ids: Sequence[int]) -> str:
        return backend.decode(list(ids), skip_special_tokens=True)

    whole = decode([*context, *tokens])[len(decode(context)) :]
    for detokenizer in (
        FastDetokenizer(backend, decode, context),
        PlainDetokenizer(decode, context),
    ):
        said = "".join(map(detokenizer.add, tokens)) + detokenizer.flush()
        if not decode(context).endswith("\ufffd"):  # else the context's own end is in doubt
            assert said.rstrip("\ufffd") == whole.rstrip("\ufffd")


def test_the_plain_way_takes_over_where_text_changes_in_hindsight() -> None:
    backend = Backend(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 3}, unk_token="?"))
    # "ab" becomes "X": what was said already is no longer the beginning.
    backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "XYZ")])
    detokenizer = FastDetokenizer(backend, lambda ids: backend.decode(list(ids)))
    said = [detokenizer.add(token) for token in (0, 1, 2, 2)] + [detokenizer.flush()]
    assert said[0] == "a"
    assert said[-3:] == ["c", "c", ""]


def test_a_text_that_goes_on_keeps_its_first_space() -> None:
    class Fast:
        """The least that `Tokenizer` asks of a transformers tokenizer, over Llama 2's kind."""

        chat_template = None
        backend_tokenizer = vocabularies.byte_fallback()

        def decode(self, token_ids: list[int], **options: object) -> str:
            return self.backend_tokenizer.decode(token_ids, skip_special_tokens=True)

        def encode(self, text: str, **options: object) -> list[int]:
            return self.backend_tokenizer.encode(text).ids

        def apply_chat_template(self, conversation: object, **options: object) -> list[int]:
            raise NotImplementedError

    tokenizer = Tokenizer(Fast())
    before, after = tokenizer.encode("the capital"), tokenizer.encode("of Japan")

    def said(stream: TextStream) -> str:
        return "".join(map(stream.add, after)) + stream.finish()

    assert said(tokenizer.text_stream(after=before)) == " of Japan"
    assert said(tokenizer.text_stream()) == "of Japan"
