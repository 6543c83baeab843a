"""Small real tokenizers of the kinds that models come with, trained in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXT = [
    "Once upon a time there was a little fox. It said: don't stop, hello . world!",
    "Übergröße naïve 日本語テキスト 🦊🚀 один два, the capital of Japan is Tokyo.",
] * 20

CHATML = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('a system message must come first') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}"
    "{% endif %}"
)
THOUGHTLESS = CHATML.replace("{{ '<think></think>' }}", "")
"""The same for a model that does not think."""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END = 2
"""The token id of <|im_end|>."""


@cache
def byte_level() -> Tokenizer:
    """Like GPT-2's, Llama 3's and Qwen's: every byte is a token, so half characters happen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return tokenizer


@cache
def byte_fallback() -> Tokenizer:
    """Like Llama 2's and Gemma's: words begin with ▁, rare characters are bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False)
    )
    return tokenizer


@cache
def word_pieces() -> Tokenizer:
    """Like BERT's: spaces are made up between words."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.WordPieceTrainer(vocab_size=250, special_tokens=["[UNK]"], show_progress=False),
    )
    return tokenizer


def chat_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A transformers tokenizer over `byte_level`, with or without a chat template."""
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=byte_level(), eos_token=SPECIAL[END], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = template
    return tokenizer


@cache
def sentencepieces() -> PreTrainedTokenizerFast:
    """`byte_fallback` as it is in Llama 2's and Mistral's files: bytes are ordinary tokens."""
    written = json.loads(byte_fallback().to_str())
    ordinary = [t for t in written["added_tokens"] if not t["content"].startswith("<0x")]
    written["added_tokens"] = ordinary
    # Every letter of JSON stands there as itself, too, as in a real vocabulary.
    vocabulary = written["model"]["vocab"]
    for character in map(chr, range(0x21, 0x7F)):
        vocabulary.setdefault(character, len(vocabulary))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(written)), bos_token="<s>", eos_token="</s>"
    )


def marked_tokenizer(
    template: str, special: Sequence[str] = (), ordinary: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """`chat_tokenizer` with markers of its own: special tokens, and added ones that are not."""
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(byte_level().to_str()),
        eos_token=SPECIAL[END],
        pad_token=SPECIAL[0],
    )
    markers = [AddedToken(text, special=True) for text in special]
    markers += [AddedToken(text, special=False) for text in ordinary]
    tokenizer.add_tokens(markers)
    tokenizer.chat_template = template
    return tokenizer
