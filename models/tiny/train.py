"""Train the tiny model from scratch: tokenizer, weights and everything needed to load it.

    python -m models.tiny.train --out /tmp/tiny

The text comes from the grammar in `corpus`; nothing is downloaded. All seeds and the number of
steps are fixed, so the same versions on the same kind of machine, with the same number of threads,
give the same weights. Other machines may add up floating point numbers in another order and then
arrive at slightly different ones.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tokenizers
import torch
import transformers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from .corpus import Message, conversations, normalised
from .corpus.held_out import FRESH_IN_DOMAIN, FRESH_OFF_DOMAIN, IN_DOMAIN, OFF_DOMAIN

HERE = Path(__file__).resolve().parent
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Words take their leading space with them, as usual. Numbers do not, so that the 8 of "8+8" and the
# one of "8 + 8" are the same token; and a number up to 100 is one token, so that counting to it
# means to stop where the same token comes up again.
WORD_PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NUMBERS = " ".join(map(str, range(101)))
# Up to this length, all tokens of an answer count fully.
FULL_WEIGHT_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every number that decides what the trained weights are."""

    seed: int = 20
    vocabulary: int = 2048
    tokenizer_conversations: int = 20_000
    hidden: int = 160
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 432
    positions: int = 2048
    initializer_range: float = 0.05
    steps: int = 2400
    conversations_per_step: int = 32
    # Where the conversations of a step, sorted by length, are cut: the long ones are few.
    batch_cuts: tuple[float, ...] = (0.5, 0.8, 0.95)
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    # Questions are learned a little, too: it teaches the model their words.
    question_weight: float = 0.05
    threads: int = 2


def held_out_questions() -> frozenset[str]:
    """Return the questions of the evaluation, which must not occur in training."""
    asked = [question for question, _ in IN_DOMAIN + FRESH_IN_DOMAIN]
    asked += OFF_DOMAIN + FRESH_OFF_DOMAIN
    return frozenset(map(normalised, asked))


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the conversations, and give it the chat template."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sample = islice(conversations(recipe.seed), recipe.tokenizer_conversations)
    texts = (message["content"] for messages in sample for message in messages)
    # The sample alone may be too small to make a token of every number.
    core.train_from_iterator(chain(texts, repeat(NUMBERS, 1000)), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token=END_OF_TEXT,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=(HERE / "chat_template.jinja").read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
        model_max_length=recipe.positions,
    )


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained model with weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=recipe.positions,
        initializer_range=recipe.initializer_range,
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, temperature=0.6, top_p=0.9, top_k=0, **special
    )
    return model


def answer_weights(length: int) -> list[float]:
    """Return the weights of the tokens of an answer.

    Tokens of a long answer count for less, by the square root of its length; otherwise a few long
    stories would count for more than hundreds of sums. Where an answer ends matters in any case.
    """
    weight = min(1.0, (FULL_WEIGHT_TOKENS / length) ** 0.5)
    return [weight] * max(0, length - 2) + [1.0] * min(2, length)


def encode(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message], question_weight: float
) -> tuple[list[int], list[float]]:
    """Return the tokens of a conversation and how much each of them counts in the loss.

    This writes the same text as the chat template, piece by piece, because the template alone does
    not tell which of the tokens belong to an answer.
    """
    tokens: list[int] = []
    weights: list[float] = []
    for message in messages:
        head = tokenizer.encode(f"{TURN_START}{message['role']}\n")
        body = tokenizer.encode(message["content"] + TURN_END)
        tail = tokenizer.encode("\n")
        tokens += head + body + tail
        weights += [question_weight] * len(head)
        weights += (
            answer_weights(len(body))
            if message["role"] == "assistant"
            else [question_weight] * len(body)
        )
        weights += [question_weight] * len(tail)
    weights[0] = 0.0  # Nothing comes before the first token that could predict it.
    return tokens, weights


@dataclasses.dataclass
class Batch:
    """Conversations of similar length, padded at their ends.

    No attention mask is needed: attention looks backwards only, so no token ever sees the padding,
    and the padding itself has no weight in the loss.
    """

    tokens: torch.Tensor
    weights: torch.Tensor


def steps(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, held_out: frozenset[str]
) -> Iterator[list[Batch]]:
    """Yield, for each step, its conversations sorted by length and cut into a few batches."""
    stream = conversations(recipe.seed + 1, held_out)
    while True:
        chosen = islice(stream, recipe.conversations_per_step)
        rows = [encode(tokenizer, messages, recipe.question_weight) for messages in chosen]
        rows.sort(key=lambda row: len(row[0]))
        cut = [round(len(rows) * share) for share in recipe.batch_cuts]
        bounds = zip([0, *cut], [*cut, len(rows)], strict=True)
        yield [pad(rows[i:j], tokenizer.pad_token_id) for i, j in bounds if i < j]


def pad(rows: list[tuple[list[int], list[float]]], pad_token: int) -> Batch:
    """Bring all rows to the length of the longest one."""
    length = max(len(tokens) for tokens, _ in rows)
    return Batch(
        tokens=torch.tensor([t + [pad_token] * (length - len(t)) for t, _ in rows]),
        weights=torch.tensor([w + [0.0] * (length - len(w)) for _, w in rows]),
    )


def learn(recipe: Recipe, model: LlamaForCausalLM, step_batches: list[Batch]) -> float:
    """Add the gradients of one step, and return its mean loss on answer tokens."""
    total = sum(float(batch.weights[:, 1:].sum()) for batch in step_batches)
    answer_loss, answer_tokens = 0.0, 0
    for batch in step_batches:
        logits = model(input_ids=batch.tokens, use_cache=False).logits
        weights = batch.weights[:, 1:]
        losses = cross_entropy(
            logits[:, :-1].flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none"
        ).view_as(weights)
        ((losses * weights).sum() / total).backward()  # type: ignore[no-untyped-call]
        answers = losses.detach()[weights > recipe.question_weight]
        answer_loss += float(answers.sum())
        answer_tokens += answers.numel()
    return answer_loss / answer_tokens


def learning_rate_factor(recipe: Recipe, step: int) -> float:
    """Warm up in a straight line, then fall along a cosine to two percent."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    return warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, report_every: int = 25
) -> tuple[LlamaForCausalLM, list[tuple[int, float]]]:
    """Train a new model; return it with its loss curve."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory only helps to find mistakes, and costs a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model = new_model(recipe, tokenizer).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    curve: list[tuple[int, float]] = []
    recent: list[float] = []
    started = time.monotonic()
    plan = islice(steps(recipe, tokenizer, held_out_questions()), recipe.steps)
    for step, step_batches in enumerate(plan):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * learning_rate_factor(recipe, step)
        optimizer.zero_grad()
        recent.append(learn(recipe, model, step_batches))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done = step + 1
        if done % report_every == 0 or done == recipe.steps:
            mean = sum(recent) / len(recent)
            curve.append((done, round(mean, 4)))
            recent.clear()
            seconds = time.monotonic() - started
            left = seconds / done * (recipe.steps - done)
            print(
                f"step {done}/{recipe.steps}  loss on answers {mean:.4f}  "
                f"{seconds:.0f} s, {left:.0f} s left",
                flush=True,
            )
    return model.eval(), curve


def save(
    out: Path,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    curve: list[tuple[int, float]],
    seconds: float,
) -> None:
    """Write the model in bf16, the tokenizer, and `training.json` with all that is known of it."""
    tokenizer.save_pretrained(out)
    compact_json(out / "tokenizer.json")
    model.to(torch.bfloat16).save_pretrained(out)  # type: ignore[arg-type]
    weights = (out / "model.safetensors").read_bytes()
    training = {
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "machine": platform.machine(),
        "seconds": round(seconds),
        "final_loss_on_answers": curve[-1][1],
        "loss_on_answers_by_step": curve,
        "sha256": {"model.safetensors": hashlib.sha256(weights).hexdigest()},
    }
    text = json.dumps(training, indent=1)
    (out / "training.json").write_text(text + "\n", encoding="utf-8")


def compact_json(path: Path) -> None:
    """Rewrite a JSON file without the white space, which is half of a tokenizer file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Read the options, train, and write the model."""
    parser = argparse.ArgumentParser(
        description="Train the tiny model from scratch on the text of its own grammar.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write the model into")
    parser.add_argument("--force", action="store_true", help="replace a model that is there")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="number of training steps")
    parser.add_argument("--threads", type=int, default=Recipe.threads, help="CPU threads")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="seed of text and weights")
    arguments = parser.parse_args()
    if (arguments.out / "model.safetensors").exists() and not arguments.force:
        parser.error(f"{arguments.out} already holds a model; --force replaces it")
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(steps=arguments.steps, threads=arguments.threads, seed=arguments.seed)

    started = time.monotonic()
    tokenizer = train_tokenizer(recipe)
    print(f"tokenizer with {len(tokenizer)} tokens after {time.monotonic() - started:.0f} s")
    model, curve = train(recipe, tokenizer)
    save(arguments.out, recipe, tokenizer, model, curve, time.monotonic() - started)
    print(f"wrote {arguments.out} after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
