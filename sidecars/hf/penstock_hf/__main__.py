"""The command ``penstock-hf``: what it has of its own beside every sidecar's command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from penstock_server.local.batching import BatchEngine
from penstock_server.local.command import Command, ModelSpec
from penstock_server.local.engine import Engine

from penstock_hf.backend import HFBackend


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sidecar; returns the process's exit code."""
    return COMMAND.main(argv)


def _make_engine(spec: ModelSpec, name: str, max_waiting: int) -> Engine:
    return BatchEngine(HFBackend(spec), name, max_waiting=max_waiting)


COMMAND = Command(
    "penstock-hf",
    "Hugging Face models",
    _make_engine,
    devices=("cpu", "cuda", "cuda:1", "mps"),
    other_devices=True,  # torch knows more, and says so where it does not
    attentions=("sdpa", "eager"),
    examples=(
        "--model models/tiny",
        "--model big=Qwen/Qwen3-8B --device cuda --listen 0.0.0.0:50061",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
