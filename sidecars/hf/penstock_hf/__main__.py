"""The command ``penstock-hf``: what it has of its own beside every sidecar's command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from penstock_server.local.batching import BatchEngine
from penstock_server.local.command import Command, ModelSpec
from penstock_server.local.embedding import EmbeddingEngine
from penstock_server.local.engine import Engine

from penstock_hf.backend import HFBackend
from penstock_hf.embedding import HFEmbeddingBackend


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sidecar; returns the process's exit code."""
    return COMMAND.main(argv)


def _make_engine(spec: ModelSpec, name: str, max_waiting: int) -> Engine:
    return BatchEngine(HFBackend(spec), name, max_waiting=max_waiting)


def _fetch(spec: ModelSpec) -> None:
    """Have the files that say what a model is in the Hub's cache, as loading would."""
    from huggingface_hub import hf_hub_download

    for name in ("modules.json", "config.json"):
        with suppress(Exception):  # not there, no network, no such model: loading says which
            hf_hub_download(spec.source, name)


def _accelerator_memory(device: str) -> int:
    """See `Command.accelerator_memory`. Apple's GPUs compute in the machine's memory."""
    drivers = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
    if device in ("cpu", "mps") or (device == "auto" and not any(d.exists() for d in drivers)):
        return 0  # without importing torch, which takes seconds
    import torch

    if not torch.cuda.is_available():
        return 0
    free, _ = torch.cuda.mem_get_info(None if device == "auto" else torch.device(device))
    return free


def _make_embedding_engine(spec: ModelSpec, name: str, max_waiting: int) -> Engine:
    return EmbeddingEngine(HFEmbeddingBackend(spec), name, max_waiting=max_waiting)


COMMAND = Command(
    "penstock-hf",
    "Hugging Face models",
    _make_engine,
    devices=("cpu", "cuda", "cuda:1", "mps"),
    other_devices=True,  # torch knows more, and says so where it does not
    attentions=("sdpa", "eager"),
    make_embedding_engine=_make_embedding_engine,
    fetch=_fetch,
    accelerator_memory=_accelerator_memory,
    both_of_two=True,
    examples=(
        "--model models/tiny",
        "--model big=Qwen/Qwen3-8B --device cuda --listen 0.0.0.0:50061 --insecure",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
