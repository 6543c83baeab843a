"""The command ``penstock-mlx``: what it has of its own beside every sidecar's command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from penstock_server.local.batching import BatchEngine
from penstock_server.local.command import Command, ModelSpec
from penstock_server.local.engine import Engine

from penstock_mlx import runtime
from penstock_mlx.backend import MLXBackend


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sidecar; returns the process's exit code, or ends the process with it."""
    return runtime.leave(COMMAND.main(argv))


def _make_engine(spec: ModelSpec, name: str, max_waiting: int) -> Engine:
    if not spec.trust_remote_code:  # a model's own code may want it
        # Tokenizers need no torch, yet transformers imports it wherever it is installed: seconds
        # of start-up and hundreds of megabytes for nothing. None means "not importable".
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    return BatchEngine(MLXBackend(spec), name, max_waiting=max_waiting)


COMMAND = Command(
    "penstock-mlx",
    "MLX and Hugging Face models",
    _make_engine,
    devices=("cpu", "gpu"),
    examples=(
        "--model models/tiny",
        "--model small=mlx-community/Qwen3-4B-4bit --listen 0.0.0.0:50061 --insecure",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
