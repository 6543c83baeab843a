"""Makes one site of pages that lie where they belong: hooks of mkdocs, an extension of griffe.

READMEs stay in their directories and become pages. A link from one page to another is turned into
one of the site; a link to what is no page, such as a source file, becomes plain text. Docstrings'
examples become Python code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

BROUGHT: Mapping[str, str] = {
    "README.md": "index.md",
    "clients/python/README.md": "client.md",
    "examples/README.md": "examples.md",
    "server/README.md": "server.md",
    "sidecars/hf/README.md": "sidecar-hf.md",
    "sidecars/mlx/README.md": "sidecar-mlx.md",
    "deploy/README.md": "deploy.md",
}
"""A page's place in the repository → in the site. All others are in docs/."""

_LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)#\s:]*)(#[^)\s]*)?\)")

_LITERAL = re.compile(r"^(.*):: *\n\n((?:(?: {4}.*)?\n)*(?: {4}.*))", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are brought."""
    for source, place in BROUGHT.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Have links lead to where their targets are in the site."""
    place = page.file.src_uri
    source = next((s for s, p in BROUGHT.items() if p == place), f"docs/{place}")
    return _LINK.sub(lambda match: _linked(match, source, place), markdown)


def _linked(match: re.Match[str], source: str, place: str) -> str:
    image, text, target, anchor = match.groups(default="")
    if not target:
        return match[0]
    wanted = os.path.normpath(PurePosixPath(source).parent / target)
    there = BROUGHT.get(wanted)
    if there is None and (ROOT / wanted).is_file() and wanted.startswith("docs/"):
        there = wanted.removeprefix("docs/")
    if there is None:
        return text
    link = os.path.relpath(there, PurePosixPath(place).parent)
    return f"{image}[{text}]({link}{anchor})"


class Examples(griffe.Extension):
    """Makes ``Example::`` and the indented lines below it a block of Python."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change an object's docstring, once it is known."""
        if obj.docstring is not None:
            obj.docstring.value = _LITERAL.sub(_fenced, obj.docstring.value)


def _fenced(match: re.Match[str]) -> str:
    said = match[1].strip()
    lines = [line[4:] for line in match[2].split("\n")]
    language = "text" if "├" in match[2] else "python"
    title = "**Example**" if said == "Example" else f"{said}:"
    return "\n".join([f"{title}\n", f"```{language}", *lines, "```"])
