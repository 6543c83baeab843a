"""The API reference leaves nothing out, and the documentation can be built."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import penstock

ROOT = Path(__file__).parents[1]
REFERENCE = "\n".join(page.read_text() for page in sorted((ROOT / "docs/api").glob("*.md")))


def listed() -> set[str]:
    """Every name of `penstock` that has a place: its own directive, its module's, or words."""
    found = set(re.findall(r"`penstock\.(\w+)`", REFERENCE))
    for name in re.findall(r"^::: penstock\.([\w.]+)$", REFERENCE, re.MULTILINE):
        found.add(name)
        if (ROOT / "clients/python/penstock" / f"{name}.py").exists():
            module = importlib.import_module(f"penstock.{name}")
            found |= {each for each in vars(module) if belongs(module, each)}
    return found | set(
        re.findall(r"^## penstock\.(\w+)$", REFERENCE.replace("\\", ""), re.MULTILINE)
    )


def belongs(module: ModuleType, name: str) -> bool:
    """Whether the reference of a module shows the name."""
    value = getattr(module, name)
    documented = bool(inspect.getdoc(value))
    return documented and getattr(value, "__module__", None) == module.__name__


def test_the_reference_has_every_public_name() -> None:
    assert not set(penstock.__all__) - listed()


def test_the_reference_has_only_what_there_is() -> None:
    for name in re.findall(r"^::: (penstock[\w.]+)$", REFERENCE, re.MULTILINE):
        value: object = penstock
        for part in name.split(".")[1:]:
            value = getattr(value, part)
        assert inspect.getdoc(value), name


def test_the_documentation_can_be_built(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api/llm/index.html").read_text()
    for name in ("generate", "agenerate", "batch", "abatch", "run_tools", "arun_tools"):
        assert f'id="penstock.LLM.{name}"' in page
    assert "Example::" not in page
    home = (tmp_path / "index.html").read_text()
    assert 'href="async-guide/"' in home  # a link of the README, within the site
