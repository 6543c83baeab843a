"""A program: what mlx-lm says by itself, without anything of ours, to compare a sidecar with.

    python plainly.py MODEL QUANTISED PROMPT…

Prints greedy answers as JSON: of a model in float32, and of its 4-bit copy, which it writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.modules["torch"] = None  # type: ignore[assignment] # tokenizers need none; it takes seconds

import mlx.core as mx  # noqa: E402
from mlx_lm import generate, load  # noqa: E402
from mlx_lm.utils import quantize_model, save  # noqa: E402


def answers(source: str, prompts: list[str]) -> list[str]:
    model, tokenizer, *_ = load(source)
    model.set_dtype(mx.float32)
    said = []
    for prompt in prompts:
        conversation: Any = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(  # type: ignore[no-untyped-call]
            conversation, add_generation_prompt=True
        )
        said.append(generate(model, tokenizer, ids, max_tokens=40))
    return said


def write_quantised(source: str, target: str) -> None:
    model, tokenizer, config = load(source, return_config=True)  # type: ignore[misc]
    model, config = quantize_model(model, config, group_size=32, bits=4)
    save(target, source, model, tokenizer, config)


def main() -> None:
    source, target, *prompts = sys.argv[1:]
    write_quantised(source, target)
    assert (Path(target) / "config.json").is_file()
    print(json.dumps({"whole": answers(source, prompts), "quantised": answers(target, prompts)}))


if __name__ == "__main__":
    main()
