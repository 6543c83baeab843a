"""A real Redis for the tests: the one that is installed, or Debian's package, unpacked beside us.

Nothing is installed, and no rights are needed: the packages are fetched by apt into ``build/``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import ROOT, eventually

_PACKAGES = (
    "redis-tools",  # brings the server itself; the package redis-server brings its service
    "libjemalloc2",
    "liblzf1",
    "liblua5.1-0",
    "lua-bitop",
    "lua-cjson",
)
_UNPACKED = ROOT / "build" / "redis"
_PATIENCE = 120.0


class Redis:
    """A server of one's own, which listens on a Unix socket."""

    def __init__(self, command: list[str], env: dict[str, str], directory: Path) -> None:
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._command = [
            *command,
            *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(directory)),
            *("--save", "", "--appendonly", "no"),
        ]
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._env, stdout=subprocess.DEVNULL)
        eventually(self.socket.exists)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


@contextmanager
def redis_server() -> Iterator[Redis]:
    """A running Redis; skips the test where none can be had."""
    command, env = _find()
    # Not below pytest's own directories: a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        redis = Redis(command, env, Path(directory))
        redis.start()
        try:
            yield redis
        finally:
            redis.stop()


def _find() -> tuple[list[str], dict[str, str]]:
    if installed := shutil.which("redis-server"):
        return [installed], dict(os.environ)
    server = _UNPACKED / "usr" / "bin" / "redis-check-rdb"  # the same program, by its first name
    if not server.exists():
        _fetch()
    libraries = next((_UNPACKED / "usr" / "lib").glob("*-linux-gnu"))
    # Redis looks at the name that it is called by.
    link = _UNPACKED / "redis-server"
    if not link.exists():
        link.symlink_to(server)
    return [str(link)], {**os.environ, "LD_LIBRARY_PATH": str(libraries)}


def _fetch() -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("there is no redis-server, and no apt-get to fetch one")
    debs = _UNPACKED / "packages"
    debs.mkdir(parents=True, exist_ok=True)
    try:
        if not _apt(debs, "download", *_PACKAGES):
            _apt_with_lists_of_our_own(debs)
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, _UNPACKED], check=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"there is no redis-server, and none can be fetched: {error}")


def _apt(where: Path, *arguments: str) -> bool:
    done = subprocess.run(
        ["apt-get", "-q", *arguments],
        cwd=where,
        capture_output=True,
        timeout=_PATIENCE,
        check=False,
    )
    return done.returncode == 0


def _apt_with_lists_of_our_own(debs: Path) -> None:
    """Where the system has no lists of packages (images seldom do) and only root may fetch them."""
    lists, cache = debs / "lists", debs / "cache"
    for directory in (lists / "partial", cache / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    own = ("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}")
    if not (_apt(debs, *own, "update") and _apt(debs, *own, "download", *_PACKAGES)):
        raise OSError("apt-get cannot download it")
