"""Ask the tiny model the held-out questions and print how often it answers as it should.

    python -m models.tiny.evaluate

None of the held-out questions occurs in the training text. The sets after them are not held out:
they are all the sums, differences and counts the model was taught, to see how many it has kept.
Answers are generated greedily, so the figures are the same every time; --sample uses the model's
own sampling settings instead.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from .corpus import Message
from .corpus.held_out import FRESH_IN_DOMAIN, FRESH_OFF_DOMAIN, IN_DOMAIN, OFF_DOMAIN

HERE = Path(__file__).resolve().parent
DECLINES = "larger model"
SYSTEM_PROMPT = "You are a helpful assistant. Answer the questions of the user as well as you can."

# Each conversation is asked turn by turn; the texts are what the last answer must contain.
CONVERSATIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("Hello, my name is Clara.", "What is my name?"), ("clara",)),
    (("Hi! I am Hugo.", "What is the capital of Italy?", "And do you know my name?"), ("hugo",)),
    (("What is the capital of Spain?", "And what about Greece?"), ("athens",)),
    (("Tell me a joke.", "Tell me another joke."), ("?",)),
    (("What is the opposite of hot?", "And of dry?"), ("wet",)),
    (("What is Penstock?", "And what is a sidecar?", "Thank you!"), ("welcome", "pleasure")),
    (("Explain quantum mechanics.", "Okay, then what is 3 + 4?"), ("7",)),
    (("What is 5 plus 6?", "And plus 2?"), ("13",)),
    (("Hello!", "How are you?", "Write a haiku about snow.", "Nice, goodbye!"), ("goodbye", "see")),
    (("Count to 5.", "Who won the world cup?"), (DECLINES,)),
)


Case = tuple[tuple[str, ...], tuple[str, ...]]


def number_cases() -> tuple[tuple[str, list[Case]], ...]:
    """Return every sum, difference and count, each in one form of words."""
    twenty = range(21)
    sums: list[Case] = [
        ((f"What is {a} + {b}?",), (f"{a} plus {b} is {a + b}.",))
        for a in twenty
        for b in twenty
        if a + b <= 20
    ]
    differences: list[Case] = [
        ((f"What is {a} - {b}?",), (f"{a} minus {b} is {a - b}.",))
        for a in twenty
        for b in range(a + 1)
    ]
    counts: list[Case] = [
        ((f"Count to {last}.",), (", ".join(map(str, range(1, last + 1))) + ".",))
        for last in range(3, 101)
    ]
    return ("sums", sums), ("differences", differences), ("counts", counts)


def answer(
    model: Any,  # The types of transformers do not tell that a model can generate.
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    sample: bool = False,
    max_new_tokens: int = 700,
) -> str:
    """Return the model's answer to a conversation."""
    conversation = [dict[str, str](role=m["role"], content=m["content"]) for m in messages]
    text = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    settings = {} if sample else {"do_sample": False, "temperature": None, "top_p": None}
    with torch.inference_mode():
        output = model.generate(**prompt, max_new_tokens=max_new_tokens, **settings)
    new_tokens = output[0, len(prompt["input_ids"][0]) :]
    return str(tokenizer.decode(new_tokens, skip_special_tokens=True))


def ask(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    system: str | None,
    sample: bool,
) -> str:
    """Ask the questions one after another and return the last answer."""
    messages = [Message(role="system", content=system)] if system else []
    reply = ""
    for question in questions:
        messages.append(Message(role="user", content=question))
        reply = answer(model, tokenizer, messages, sample)
        messages.append(Message(role="assistant", content=reply))
    return reply


def is_right(reply: str, expected: Sequence[str]) -> bool:
    """Tell whether the reply contains an expected text and is a refusal only where it should be."""
    found = any(text.lower() in reply.lower() for text in expected)
    refused = reply.lower().count(DECLINES) and "only" in reply.lower()
    return found and (not refused or any("larger model" in text for text in expected))


def main() -> int:
    """Ask all questions and print the figures."""
    parser = argparse.ArgumentParser(description="Evaluate the tiny model on held-out questions.")
    parser.add_argument("--model", type=Path, default=HERE, help="folder of the model")
    parser.add_argument("--sample", action="store_true", help="sample instead of decoding greedily")
    parser.add_argument("--system", action="store_true", help="put a system prompt in front")
    parser.add_argument("--show", action="store_true", help="print every answer")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    system = SYSTEM_PROMPT if arguments.system else None

    cases: tuple[tuple[str, list[Case]], ...] = (
        ("in_domain", [((question,), expected) for question, expected in IN_DOMAIN]),
        ("off_domain", [((question,), (DECLINES,)) for question in OFF_DOMAIN]),
        ("fresh_in_domain", [((question,), expected) for question, expected in FRESH_IN_DOMAIN]),
        ("fresh_off_domain", [((question,), (DECLINES,)) for question in FRESH_OFF_DOMAIN]),
        ("conversations", list(CONVERSATIONS)),
        *number_cases(),
    )
    figures: dict[str, dict[str, float]] = {}
    for name, questions in cases:
        right = 0
        for position, (turns, expected) in enumerate(questions):
            reply = ask(model, tokenizer, turns, system, arguments.sample)
            good = is_right(reply, expected)
            right += good
            if arguments.show or not good or position % 40 == 0:
                mark = "right" if good else "WRONG"
                print(f"[{name}] {mark}: {' / '.join(turns)!r} -> {reply[:200]!r}", flush=True)
        figures[name] = {
            "questions": len(questions),
            "right": right,
            "share": round(right / len(questions), 3),
        }
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
