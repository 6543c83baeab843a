"""Many jobs at once in the backend, on models whose caches are of different kinds.

What is checked stands in ``batched.py``, which runs as a program of its own for each model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.processes import TINY

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]

_EVERYWHERE = (
    "staggered",
    "at_once",
    "seeds",
    "going_on",
    "cancelled_in_its_prompt",
    "a_long_prompt_holds_up_nobody",
    "constraints",
    "log_probabilities",
    "poison",
    "memory",
)
CHECKS: Mapping[str, tuple[str, ...]] = {
    "llama": ("many_at_a_time", *_EVERYWHERE, "too_little_room", "prefixes"),
    "qwen3": ("many_at_a_time", *_EVERYWHERE, "too_little_room", "prefixes"),
    "gemma3": ("many_at_a_time", *_EVERYWHERE),
    "mamba": ("many_at_a_time", *_EVERYWHERE),
    "quantised": ("many_at_a_time", "staggered", "at_once", "log_probabilities"),
    "llama4": ("one_at_a_time", "seeds", "constraints", "going_on", "cancelled_in_its_prompt"),
}

_wrong: dict[str, Mapping[str, str]] = {}


@pytest.fixture(scope="module")
def made(directory: Path) -> Path:
    """Where the models with random weights are."""
    names = [name for name in CHECKS if name != "quantised"]
    run("making.py", str(TINY), str(directory / "made"), *names)
    return directory / "made"


@pytest.mark.parametrize(
    ("model", "check"), [(model, check) for model, checks in CHECKS.items() for check in checks]
)
def test_many_at_once(
    model: str, check: str, made: Path, directory: Path, plainly: Mapping[str, object]
) -> None:
    if model not in _wrong:
        source = directory / "quantised" if model == "quantised" else made / model
        _wrong[model] = json.loads(run("batched.py", str(source), *CHECKS[model]).splitlines()[-1])
    assert _wrong[model][check] == ""


def run(program: str, *arguments: str) -> str:
    """What a program of this directory prints."""
    done = subprocess.run(
        [sys.executable, str(_HERE / program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
