"""The embedded tiny model: it loads, answers on its domain, and its training is repeatable."""

import dataclasses
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"

ANSWERS = [
    ("Hello!", "hello"),
    ("What is Penstock?", "one typed gRPC endpoint"),
    ("What is a sidecar?", "process"),
    ("What is a token?", "piece of text"),
    ("What is the capital of Japan?", "Tokyo"),
    ("what is the capital of france", "Paris"),
    ("What sound does a cow make?", "moos"),
    ("What is 7 + 8?", "15"),
    ("What is the opposite of hot?", "cold"),
    ("Which day comes after Monday?", "Tuesday"),
    ("What colour is the sky?", "blue"),
    ("Thank you!", "welcome"),
]
BEYOND = [
    "Write a Python program to sort a list.",
    "Who is the president of France?",
    "What is 4821 * 77?",
    "Translate this into German.",
]


class Tiny:
    """The model and its tokenizer, with short ways to ask."""

    def __init__(self) -> None:
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(TINY)
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            TINY, dtype=torch.float32
        )

    def tokens(self, messages: list[dict[str, Any]], **settings: Any) -> Any:
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        prompt = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            output = self.model.generate(**prompt, **settings)
        return output[0, prompt["input_ids"].shape[1] :]

    def ask(self, *contents: str, system: str | None = None, limit: int = 120) -> str:
        """Ask with alternating contents of user and assistant, the last being the question."""
        messages = [{"role": "system", "content": system}] if system else []
        for position, content in enumerate(contents):
            role = ("user", "assistant")[position % 2]
            messages.append({"role": role, "content": content})
        output = self.tokens(messages, do_sample=False, max_new_tokens=limit)
        return str(self.tokenizer.decode(output, skip_special_tokens=True))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from more threads, and a busy machine loses much by them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    """The training script. It turns on a global switch of torch, which is put back afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield importlib.import_module("models.tiny.train")
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize(("question", "expected"), ANSWERS)
def test_answers_on_its_domain(tiny: Tiny, question: str, expected: str) -> None:
    assert expected.lower() in tiny.ask(question).lower()


@pytest.mark.parametrize("question", BEYOND)
def test_declines_beyond_its_domain(tiny: Tiny, question: str) -> None:
    assert "larger model" in tiny.ask(question)


def test_system_prompt_does_not_confuse_it(tiny: Tiny) -> None:
    answer = tiny.ask("What is the capital of Italy?", system="You are a helpful assistant.")
    assert "Rome" in answer


def test_remembers_the_conversation(tiny: Tiny) -> None:
    answer = tiny.ask("My name is Clara.", "Nice to meet you, Clara!", "What is my name?")
    assert "Clara" in answer


def test_long_story_is_long(tiny: Tiny) -> None:
    message = {"role": "user", "content": "Write a long story."}
    output = tiny.tokens([message], do_sample=False, max_new_tokens=800)
    assert 300 <= len(output) < 800


def test_same_seed_gives_the_same_tokens(tiny: Tiny) -> None:
    message = {"role": "user", "content": "Tell me a story."}
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        outputs.append(tiny.tokens([message], max_new_tokens=40).tolist())
    assert outputs[0] == outputs[1]


def test_long_prompts_are_accepted(tiny: Tiny) -> None:
    prompt = "Summarise this text: " + "The cat sleeps in the warm sun. " * 200
    assert len(tiny.tokenizer(prompt)["input_ids"]) > 1500
    message = {"role": "user", "content": prompt}
    assert len(tiny.tokens([message], do_sample=False, max_new_tokens=4)) > 0


def test_template_renders_every_role(tiny: Tiny) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "42"},
    ]
    text = tiny.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>user\nTool result: 42<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_any_text_survives_the_tokenizer(tiny: Tiny) -> None:
    text = 'Größe 12.5 € — 日本 \t{"a": [1, 2]}\n\n  def f(x): return x'
    assert tiny.tokenizer.decode(tiny.tokenizer.encode(text)) == text


def test_weights_match_their_checksum() -> None:
    training = json.loads((TINY / "training.json").read_text(encoding="utf-8"))
    for name, checksum in training["sha256"].items():
        assert hashlib.sha256((TINY / name).read_bytes()).hexdigest() == checksum


def test_files_are_small_enough_for_git() -> None:
    files = [*TINY.iterdir(), *TINY.glob("corpus/*.py")]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 4_000_000


def test_corpus_is_deterministic_and_well_formed(train: ModuleType) -> None:
    first = list(islice(train.conversations(3), 3000))
    assert first == list(islice(train.conversations(3), 3000))
    assert first != list(islice(train.conversations(4), 3000))
    for messages in first:
        assert all(message["content"].strip() for message in messages)
        assert not any("{" in message["content"] for message in messages)
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_held_out_questions_are_not_in_the_training_text(train: ModuleType) -> None:
    held_out = train.held_out_questions()
    for messages in islice(train.conversations(5, held_out), 3000):
        assert held_out.isdisjoint(train.normalised(message["content"]) for message in messages)


def test_training_sees_the_text_of_the_chat_template(tiny: Tiny, train: ModuleType) -> None:
    for messages in islice(train.conversations(6), 50):
        tokens, weights = train.encode(tiny.tokenizer, messages, 0.05)
        text = tiny.tokenizer.apply_chat_template(messages, tokenize=False)
        assert tiny.tokenizer.decode(tokens) == text
        answered = [token for token, weight in zip(tokens, weights, strict=True) if weight > 0.05]
        answers = "".join(m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant")
        assert tiny.tokenizer.decode(answered) == answers


def test_training_twice_gives_the_same_model(train: ModuleType) -> None:
    recipe = dataclasses.replace(
        train.Recipe(),
        vocabulary=600,
        tokenizer_conversations=300,
        hidden=32,
        layers=2,
        intermediate=64,
        steps=4,
        warmup_steps=1,
        conversations_per_step=4,
        threads=1,
    )
    runs = []
    for _ in range(2):
        tokenizer = train.train_tokenizer(recipe)
        model, curve = train.train(recipe, tokenizer, report_every=1)
        weights = torch.cat([parameter.flatten() for parameter in model.parameters()])
        runs.append((tokenizer.backend_tokenizer.to_str(), curve, weights))
    assert runs[0][:2] == runs[1][:2]
    assert torch.equal(runs[0][2], runs[1][2])
    losses = [loss for _, loss in runs[0][1]]
    assert losses[-1] < losses[0]


def test_training_does_not_overwrite_a_model(
    train: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(TINY)])
    with pytest.raises(SystemExit):
        train.main()
    assert "--force" in capsys.readouterr().err
