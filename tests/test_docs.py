"""Documentation is executed: the blocks of the pages run, against a live gateway.

Its hosted providers are scripted; `local/tiny` is the real one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from penstock_server.config import GatewayConfig

from tests.support.processes import ROOT, ServerProcess

PAGES = [
    "README.md",
    "clients/python/README.md",
    "server/README.md",
    "sidecars/hf/README.md",
    "sidecars/mlx/README.md",
    "docs/local-models.md",
    "docs/async-guide.md",
    "docs/operations.md",
    "docs/security.md",
    "examples/README.md",
]
DEFAULT_ADDRESS = "127.0.0.1:50051"

# What a page may ask a reader to do that a test must not: set up, serve, install.
_NOT_RUN = re.compile(r"^\s*(make|pip|penstock-server|penstock-hf|docker|source|python -m pip)\b")

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[ParameterSet]:
    return [
        pytest.param(match[2], id=f"{page}:{number}")
        for page in PAGES
        for number, match in enumerate(_FENCE.finditer((ROOT / page).read_text()))
        if match[1] == language
    ]


def run(
    command: list[str], gateway: ServerProcess, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PENSTOCK_TARGET": gateway.address,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONWARNINGS": "error",
    }
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=90
    )


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str, hosted_gateway: ServerProcess, tmp_path: Path) -> None:
    code = code.replace(DEFAULT_ADDRESS, hosted_gateway.address)
    done = run([sys.executable, "-c", code], hosted_gateway, tmp_path)  # a block may write files
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", blocks("sh"))
def test_shell_blocks_run(script: str, hosted_gateway: ServerProcess) -> None:
    lines = [line for line in script.splitlines() if not _NOT_RUN.match(line)]
    code = "\n".join(lines).replace(DEFAULT_ADDRESS, hosted_gateway.address)
    done = run(["bash", "-euo", "pipefail", "-c", code], hosted_gateway)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("text", blocks("toml"))
def test_configurations_are_valid(text: str, tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "penstock_server", "--check", "--config", file],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert GatewayConfig.model_validate_json(done.stdout).providers


def test_the_pages_have_what_is_tested() -> None:
    assert len(blocks("python")) > 25
    assert len(blocks("sh")) > 3
    assert len(blocks("toml")) > 0


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, "CONTRIBUTING.md", "models/tiny/README.md", "deploy/README.md"]:
        here = (ROOT / page).parent
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
            assert (here / link).exists(), f"{page} links to {link}"
