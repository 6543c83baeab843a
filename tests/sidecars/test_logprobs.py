"""Log probabilities: tokens' texts and bytes, in order, and none lost on the way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock import v1
from penstock_server.local import prompt
from penstock_server.local.job import Job, Scores
from penstock_server.local.tokenizer import Tokenizer

from tests.sidecars import chat_templates, vocabularies
from tests.sidecars.writing import loaded

BYTES = Tokenizer(vocabularies.chat_tokenizer())
PIECES = Tokenizer(vocabularies.sentencepieces())
TEXT = "the little fox 🦊 日本 naïve\t«ÿ»"


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["byte level", "byte fallback"])
def test_tokens_bytes_are_the_texts(tokenizer: Tokenizer) -> None:
    names = [tokenizer.name(token) for token in tokenizer.encode_part(TEXT)]
    assert b"".join(raw for _, raw in names).decode().strip() == TEXT
    for text, raw in names:
        assert text == raw.decode("utf-8", "replace")
    assert any("\ufffd" in text for text, _ in names), "some token is half a character"


def test_names_of_markers_and_of_what_is_no_token() -> None:
    assert BYTES.name(vocabularies.END) == ("<|im_end|>", b"<|im_end|>")
    assert BYTES.name(1_000_000) == ("", b"")


def job(tokens: int = 50, stop: Sequence[str] = (), top: int | None = 2) -> Job:
    request = v1.GenerateRequest(
        prompt="Hi",
        logprobs=None if top is None else v1.LogprobsOptions(top_logprobs=top),
        sampling=v1.Sampling(max_output_tokens=tokens, stop=stop),
    )
    return prompt.make_job(request, loaded(vocabularies.chat_tokenizer()))


def test_alternatives() -> None:
    asked = job()
    assert asked.top_logprobs == 2
    [token] = BYTES.encode_part("x")
    [other] = BYTES.encode_part("y")
    chunk = asked.accept(token, Scores(-0.5, [(other, -0.25), (token, -0.5)]))
    assert list(chunk.logprobs) == [
        v1.TokenLogprob(
            token="x",
            token_bytes=b"x",
            logprob=-0.5,
            top=[
                v1.TokenLogprob.Alternative(token="y", token_bytes=b"y", logprob=-0.25),
                v1.TokenLogprob.Alternative(token="x", token_bytes=b"x", logprob=-0.5),
            ],
        )
    ]
    assert job(top=None).top_logprobs is None
    assert job(top=0).top_logprobs == 0


@given(st.lists(st.sampled_from(BYTES.encode_part(TEXT)), max_size=20), st.booleans())
def test_they_stay_in_order_and_come_with_text(tokens: list[int], has_stop: bool) -> None:
    asked = job(stop=["fox 🦊"] if has_stop else [])
    chunks = []
    for token in tokens:
        chunks.append(asked.accept(token, Scores(-token / 100)))
        assert not chunks[-1].logprobs or chunks[-1].text or chunks[-1].finish
        if chunks[-1].finish:
            break
    else:
        chunks.append(asked.accept(vocabularies.END, Scores(-1.0)))
    came = [logprob for chunk in chunks for logprob in chunk.logprobs]
    written = tokens[: len(chunks)]
    assert [logprob.logprob for logprob in came] == [-token / 100 for token in written]
    assert b"".join(each.token_bytes for each in came) == b"".join(
        BYTES.name(token)[1] for token in written
    )


def test_hidden_thoughts_have_none() -> None:
    it = loaded(chat_templates.r1())
    request = v1.GenerateRequest(
        prompt="Hi",
        logprobs=v1.LogprobsOptions(),
        thinking=v1.ThinkingOptions(include=False),
    )
    asked = prompt.make_job(request, it)
    chunks = [
        asked.accept(token, Scores(0.0)) for token in it.tokenizer.encode_part("Hm.</think>Yes")
    ]
    assert "".join(chunk.text for chunk in chunks) == "Yes"
    assert "".join(each.token for chunk in chunks for each in chunk.logprobs) == "Yes"
