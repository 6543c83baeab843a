"""Summaries of many texts at once, printed as they come.

    python examples/batch_summaries.py FILE...      # default: the project's own pages

Asks the gateway at PENSTOCK_TARGET (default: 127.0.0.1:50051, where `make serve` listens) for
PENSTOCK_MODEL (default: local/tiny).
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import penstock

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


async def main(files: list[Path]) -> int:
    """Summarise them; how many could not be."""
    prompts = [
        f"Summarise in one sentence:\n\n{file.read_text('utf-8', 'replace')[:600]}"
        for file in files
    ]
    failed = 0
    began = time.perf_counter()
    async with await penstock.acreate_llm(os.environ.get("PENSTOCK_MODEL", "local/tiny")) as llm:
        results = await llm.abatch(
            prompts,
            max_output_tokens=60,
            max_concurrency=16,
            as_completed=True,
            return_exceptions=True,  # one that fails does not end the others
        )
        async for place, result in results:
            if isinstance(result, penstock.PenstockError):
                failed += 1
                print(f"{files[place].name}: failed: {result}", file=sys.stderr)
            else:
                print(f"{files[place].name}: {' '.join(result.content.split())}")
    print(f"{len(files) - failed} of {len(files)} in {time.perf_counter() - began:.1f} s")
    return failed


if __name__ == "__main__":
    sys.exit(asyncio.run(main([Path(name) for name in sys.argv[1:]] or PAGES)) > 0)
