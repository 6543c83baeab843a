"""The flags of a sidecar's command line that say which models, and how they run.

What becomes of them is ``command``'s to know.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import inf

from penstock_server.local.memory import parse_size

DTYPES = ("auto", "fastest", "float32", "bfloat16", "float16")


def add_model_flags(
    group: argparse._ArgumentGroup,
    *,
    devices: Sequence[str],
    other_devices: bool = False,
    attentions: Sequence[str] = (),
    both_of_two: bool = False,
) -> None:
    """Add them all; what an engine has of its own is said as in `Command`."""
    add = group.add_argument
    add("--model", metavar="[NAME=]PATH", action="append", required=True, help="may be repeated")
    add("--lazy", action="store_true", help="load a model when it is first asked (default: now)")
    add(
        "--device",
        default="auto",
        choices=None if other_devices else ["auto", *devices],
        help=f"{', '.join(devices)} (default: the best there is)",
    )
    add(
        "--dtype",
        default="auto",
        choices=DTYPES,
        help="default: float32 on a CPU, else the checkpoint's own; fastest: bfloat16 on a CPU "
        "that computes with it",
    )
    add(
        "--threads",
        type=_at_least_one,
        help="CPU threads to compute with (default: one less than there are cores"
        + (", both of two)" if both_of_two else ")"),
    )
    add(
        "--context-length",
        type=_at_least_one,
        default=0,
        metavar="TOKENS",
        help="bound prompt and answer together (default: what the model can)",
    )
    add(
        "--prefill-chunk",
        type=_at_least_one,
        default=0,
        metavar="TOKENS",
        help="how much of long prompts to compute between others' tokens",
    )
    add(
        "--max-batch",
        type=_at_least_one,
        default=0,
        metavar="REQUESTS",
        help="how many to compute at a time",
    )
    if attentions:
        add(
            "--attention",
            default="auto",
            metavar="NAME",
            help=f"{', '.join(attentions)}, or another that the library knows",
        )
    add(
        "--cache-memory",
        type=_size,
        default=0,
        metavar="SIZE",
        help="the most that texts' keys and values may take (default: a share of what the "
        "weights leave)",
    )
    add(
        "--memory",
        type=_size,
        default=0,
        metavar="SIZE",
        help="the most that all models may take, such as 8GiB (default: most of what there is)",
    )
    add(
        "--keep-alive",
        type=_seconds,
        default=None,
        metavar="SECONDS",
        help="unload a model that nobody has asked for so long (default: never)",
    )
    add(
        "--max-queue",
        type=_at_least_one,
        default=256,
        metavar="REQUESTS",
        help="how many may wait for a model before it answers OVERLOADED (default: 256)",
    )
    add(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that models bring along",
    )


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < inf:
        raise argparse.ArgumentTypeError("must be a number of seconds, at least 0")
    return seconds
