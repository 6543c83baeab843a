"""The deployment's files, read: what an image holds and runs, what a service is given.

They are read as far as ours go, not as far as Docker's languages do.
"""

from __future__ import annotations

import json
import re
import shlex
import string
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"


@dataclass
class Image:
    """A Dockerfile, walked through from top to bottom."""

    path: Path
    base: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    copied: dict[PurePosixPath, Path] = field(default_factory=dict)
    """Path in the image → path in the checkout."""
    runs: list[str] = field(default_factory=list)
    pip_installs: list[list[str]] = field(default_factory=list)
    """The arguments of each ``pip install``, with paths in the checkout."""
    entrypoint: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    user: str = ""
    stop_signal: str = ""

    def __post_init__(self) -> None:
        arguments: dict[str, str] = {}
        directory = PurePosixPath("/")
        for instruction, rest in _instructions(self.path.read_text(encoding="utf-8")):
            if instruction == "FROM":
                assert not self.base, f"{self.path}: has more than the one stage that is read here"
                self.base = rest
            elif instruction == "ARG":
                name, _, default = rest.partition("=")
                arguments[name] = "".join(shlex.split(default))
            elif instruction == "ENV":
                self.environment |= _assignments(rest)
            elif instruction == "WORKDIR":
                directory /= rest
            elif instruction == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    into = directory / target
                    if target.endswith("/"):
                        into /= PurePosixPath(source).name
                    self.copied[into] = ROOT / source
            elif instruction == "RUN":
                self.runs.append(rest)
                self._find_pip(string.Template(rest).substitute(arguments), directory)
            elif instruction == "EXPOSE":
                self.ports += [int(port) for port in rest.split()]
            elif instruction == "USER":
                self.user = rest
            elif instruction == "STOPSIGNAL":
                self.stop_signal = rest
            elif instruction == "HEALTHCHECK":
                self.healthcheck = json.loads(rest.partition("CMD ")[2])
            elif instruction == "ENTRYPOINT":
                self.entrypoint = json.loads(rest)  # which holds for the exec form alone
            else:
                raise AssertionError(f"{self.path}: {instruction} is not read here")

    @property
    def projects(self) -> list[Path]:
        """The Python projects that are copied into it."""
        return [path for path in self.copied.values() if (path / "pyproject.toml").is_file()]

    def module(self, command: str) -> str:
        """The module behind a command that one of these projects installs."""
        for project in self.projects:
            table = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
            if target := table["project"].get("scripts", {}).get(command):
                return str(target).partition(":")[0]
        raise AssertionError(f"{self.path}: no project that it copies installs {command}")

    def _find_pip(self, command: str, directory: PurePosixPath) -> None:
        for part in command.split("&&"):
            words = shlex.split(part)
            if words[:2] != ["pip", "install"]:
                assert "pip" not in words, f"{self.path}: {part}: not read here"
                continue
            outside = {
                word: str(self.copied[directory / word])
                for word in words
                if directory / word in self.copied
            }
            self.pip_installs.append([outside.get(word, word) for word in words[2:]])


@dataclass
class Service:
    """A service of the compose file, with its image."""

    name: str
    settings: Mapping[str, Any]

    @property
    def image(self) -> Image:
        build = self.settings["build"]
        return Image(ROOT / build["context"] / build["dockerfile"])

    @property
    def environment(self) -> dict[str, str]:
        """The container's: the image's, then its own. What has no value is not handed down."""
        own = self.settings.get("environment", {})
        return self.image.environment | {k: str(v) for k, v in own.items() if v is not None}

    @property
    def binds(self) -> dict[str, Path]:
        """Path in the container → path in the checkout."""
        return {
            target: ROOT / source
            for source, target, _ in self._mounts()
            if source.startswith((".", "/"))
        }

    @property
    def volumes(self) -> dict[str, str]:
        """Path in the container → volume."""
        return {
            target: source
            for source, target, _ in self._mounts()
            if not source.startswith((".", "/"))
        }

    @property
    def writable(self) -> list[str]:
        """What is mounted so that the container can write to it."""
        return [target for _, target, read_only in self._mounts() if not read_only]

    @property
    def arguments(self) -> list[str]:
        """What its program is called with, the container's paths being those of the checkout."""
        return [self._outside(argument) for argument in self.settings.get("command", [])]

    def _mounts(self) -> Iterator[tuple[str, str, bool]]:
        for mount in self.settings.get("volumes", []):
            if isinstance(mount, str):
                source, target, *mode = mount.split(":")
                yield source, target, mode == ["ro"]
            else:
                yield mount["source"], mount["target"], mount.get("read_only", False)

    def _outside(self, argument: str) -> str:
        name, equals, path = argument.rpartition("=")
        for target, source in self.binds.items():
            if PurePosixPath(path).is_relative_to(target):
                return f"{name}{equals}{source / PurePosixPath(path).relative_to(target)}"
        return argument


def compose(**variables: str) -> dict[str, Any]:
    """The compose file, with these variables set where it is run, and no others."""
    text = COMPOSE_FILE.read_text(encoding="utf-8")
    tree: dict[str, Any] = yaml.safe_load(
        _VARIABLE.sub(lambda match: variables.get(match[1]) or match[2], text)
    )
    return tree


def services(**variables: str) -> dict[str, Service]:
    """The compose file's services, by name."""
    tree = compose(**variables)["services"]
    return {name: Service(name, settings) for name, settings in tree.items()}


def variables() -> set[str]:
    """The variables that the compose file reads."""
    return {match[1] for match in _VARIABLE.finditer(COMPOSE_FILE.read_text(encoding="utf-8"))}


def seconds(duration: str) -> float:
    """A duration such as "1m30s"."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    parts = re.findall(r"(\d+)([hms])", duration)
    assert duration == "".join(number + unit for number, unit in parts), duration
    return sum(int(number) * units[unit] for number, unit in parts)


def kept_from_builder(path: str) -> bool:
    """Whether .dockerignore keeps a path of the checkout out of the build."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        translated = re.escape(pattern.removeprefix("!")).replace(r"\*\*/", "(.*/)?")
        translated = translated.replace(r"\*", "[^/]*")
        if re.fullmatch(f"{translated}(/.*)?", path):
            ignored = not pattern.startswith("!")
    return ignored


_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            yield instruction, rest.strip()


def _assignments(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(text))
