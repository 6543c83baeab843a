"""One question to several models at the same time, and what most of them say.

    python examples/consensus.py "What is 9 plus 4?"
    PENSTOCK_MODELS="openai/gpt-5-nano anthropic/claude-haiku-4-5" python examples/consensus.py

The models are those of one gateway, at PENSTOCK_TARGET; by default the one of `make serve` is asked
three times, each with a seed of its own.
"""

import asyncio
import os
import re
import sys

import penstock

QUESTION = "What is 7 plus 8?"


def verdict(text: str) -> str:
    """What an answer comes down to: its last number or yes or no, or else all of it."""
    found = re.findall(r"\b(?:yes|no|\d+)\b", text.casefold())
    return found[-1] if found else text.strip()


async def main(question: str) -> None:
    """Ask all, print each answer and the majority's."""
    names = os.environ.get("PENSTOCK_MODELS", "").split()
    if not names:
        names = [os.environ.get("PENSTOCK_MODEL", "local/tiny")] * 3
        llms = [penstock.create_llm(name, seed=seed) for seed, name in enumerate(names)]
    else:
        llms = [penstock.create_llm(name) for name in names]
    comparison = await penstock.acompare(llms, question, max_output_tokens=40)
    for name, each in zip(names, comparison.results, strict=True):
        print(f"{name}: {each.response.content if each.response else each.error}")
    said, share = comparison.majority(verdict)
    print(f"{share:.0%} say {said!r}")


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or QUESTION))
