"""The model that ``local.py`` measures with, and the words that its prompts are made of.

A Llama of 11 million parameters that nobody trained: what it costs does not depend on what it says.
It can say only whole words, and never its end: the embeddings of all other tokens are zero, and so,
the embeddings being tied, are their scores, which the best word's always exceeds. So every answer
has as many tokens as were asked for, whoever computes it, and counting words counts tokens.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "models/tiny/chat_template.jinja"
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Of this repository: what the tokenizer is trained on.
_TEXTS = (
    "*.md",
    "docs/*.md",
    "proto/**/*.proto",
    "clients/python/**/*.py",
    "server/**/*.py",
    "sidecars/**/*.py",
    "models/tiny/corpus/*.py",
    "tests/**/*.py",
)

VOCABULARY = 4096
POSITIONS = 8192
SHAPE: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1024,
}

PROMPT_WORDS = (16, 96)
ANSWER_TOKENS = (32, 96)

# Tokens that are a word of plain letters with the space before it, as byte-level BPE and
# SentencePiece write it.
_WORD = re.compile("[Ġ▁]([a-z]{2,})")


class Question(NamedTuple):
    """What a caller asks: a prompt of so many words, and the tokens that the answer shall have."""

    prompt: str
    tokens: int


class Questions:
    """The same endless list of questions for everybody: ``questions[7]`` is always the same."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def __getitem__(self, index: int) -> Question:
        chance = random.Random(index)
        words = chance.randint(*PROMPT_WORDS)
        return Question(self.text(words, chance), chance.randint(*ANSWER_TOKENS))

    def text(self, words: int, chance: random.Random) -> str:
        """So many random words."""
        return " ".join(chance.choices(self.words, k=words))

    @staticmethod
    def of(model: Path) -> Questions:
        """Questions in the words of a model's vocabulary, each of them one token."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        return Questions([word for word, _ in _words(tokenizer)][:4000])


def _words(tokenizer: Any) -> Iterator[tuple[str, int]]:
    """The words that are one token each, with the token's id."""
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = _WORD.fullmatch(token)
        if word and tokenizer.encode(f" {word[1]}", add_special_tokens=False).ids == [number]:
            yield word[1], number


def made(build: Path, dtype: str) -> Path:
    """The random model's directory; makes it where it is not there yet."""
    folder = build / f"llama-11m-{dtype}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        parameters = _make(folder, dtype)
        (folder / "done").write_text(f"{parameters}\n")
        print(f"made {folder}: {parameters / 1e6:.1f} million parameters, {dtype}", flush=True)
    return folder


def _make(folder: Path, dtype: str) -> int:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = _train_tokenizer()
    special = {
        "bos_token_id": tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        "eos_token_id": tokenizer.convert_tokens_to_ids(TURN_END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(END_OF_TEXT),
    }
    torch.manual_seed(11)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            initializer_range=0.05,
            **SHAPE,
            **special,
        )
    )
    words = [number for _, number in _words(tokenizer.backend_tokenizer)]
    mute = torch.ones(VOCABULARY, dtype=torch.bool)
    mute[words] = False
    with torch.no_grad():
        model.get_input_embeddings().weight[mute] = 0.0  # type: ignore[operator]
    model.generation_config = GenerationConfig(do_sample=False, **special)  # type: ignore[no-untyped-call]
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(weights.numel() for weights in model.parameters())


def _train_tokenizer() -> Any:
    """Byte-level BPE, as GPT-2's, of this repository's own text."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [
        path.read_text(encoding="utf-8") for where in _TEXTS for path in sorted(ROOT.glob(where))
    ]
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    if core.get_vocab_size() != VOCABULARY:
        sys.exit(f"the text gave {core.get_vocab_size()} tokens instead of {VOCABULARY}")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token=END_OF_TEXT,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=TEMPLATE.read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
    )


def endless(model: Path, build: Path) -> Path:
    """A copy of somebody's model (its weights as links) in which no token ends an answer.

    Each of the files that may name an end is rewritten without it, and with greedy decoding.
    """
    if not (model / "config.json").is_file() or not (model / "tokenizer.json").is_file():
        sys.exit(f"--model {model}: no config.json and tokenizer.json there")
    folder = build / f"endless-{model.resolve().name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in model.resolve().iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    _rewrite(folder / "config.json", eos_token_id=None)
    _rewrite(folder / "tokenizer_config.json", eos_token=None)
    special = folder / "special_tokens_map.json"
    if special.exists():
        _rewrite(special, eos_token=None)
    generation = folder / "generation_config.json"
    generation.unlink(missing_ok=True)
    generation.write_text(json.dumps({"do_sample": False}))
    return folder


def _rewrite(file: Path, **values: object) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    kept = {key: value for key, value in {**content, **values}.items() if value is not None}
    file.write_text(json.dumps(kept, indent=2), encoding="utf-8")


def stored_dtype(model: Path) -> str:
    """The type of most of a checkpoint's weights, such as "float32"."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    for file in sorted(model.glob("*.safetensors")):
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(size))
        types = [about["dtype"] for name, about in header.items() if name != "__metadata__"]
        return names.get(max(types, key=types.count), "other")
    return "other"
