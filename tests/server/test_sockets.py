"""Unix sockets: who may use them, seen from outside."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from penstock_server.config import ServerConfig

from tests.support.processes import ServerProcess, gateway, sidecar

_NOBODY = 65534

# Connects as somebody else, and says what became of it.
_STRANGER = f"""
import os, socket, sys
os.setgroups([])
os.setgid({_NOBODY})
os.setuid({_NOBODY})
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except PermissionError:
    print("refused")
else:
    print("let in")
"""


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """What is started here gets no help from the shell's own habits."""
    former = os.umask(0)
    yield
    os.umask(former)


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that everybody may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="penstock-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def stranger(socket: Path) -> str:
    command = [sys.executable, "-c", _STRANGER, str(socket)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def mode(path: Path) -> int:
    assert stat.S_ISSOCK(path.stat().st_mode)
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("server", [gateway, sidecar])
def test_a_socket_is_its_users_alone(directory: Path, server: Callable[..., ServerProcess]) -> None:
    socket = directory / "socket"
    with server(listen=f"unix:{socket}") as process:
        assert process.address == f"unix:{socket}"
        assert mode(socket) == 0o600
        if os.getuid() == 0:  # only root can be somebody else
            assert stranger(socket) == "refused"
        assert process.stop() == 0
    assert not socket.exists()


def test_it_is_shared_with_whom_the_operator_says(directory: Path) -> None:
    socket = directory / "socket"
    with gateway("--set", "socket_mode=0666", listen=f"unix:{socket}") as process:
        assert process.address
        assert mode(socket) == 0o666
        if os.getuid() == 0:
            assert stranger(socket) == "let in"


@pytest.mark.parametrize("wrong", ["rw", "0999", "60", "00600"])
def test_modes_are_octal(wrong: str) -> None:
    with pytest.raises(ValueError, match="socket_mode"):
        ServerConfig.model_validate({"socket_mode": wrong})
