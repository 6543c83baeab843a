"""Dependencies point one way, and rooms know only what they should."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "clients/python/penstock"
SERVER = ROOT / "server/penstock_server"
HF = ROOT / "sidecars/hf/penstock_hf"
MLX = ROOT / "sidecars/mlx/penstock_mlx"

# Where → what must not be imported there, and why.
FORBIDDEN = [
    (CLIENT, ["penstock_server", "penstock_hf", "penstock_mlx", "torch"], "clients know no server"),
    (SERVER, ["penstock_hf", "penstock_mlx", "torch", "mlx"], "engines live in sidecars"),
    (HF, ["penstock_mlx", "mlx"], "sidecars do not know each other"),
    (MLX, ["penstock_hf", "torch"], "sidecars do not know each other"),
    (
        SERVER / "providers",
        [
            "penstock_server.service",
            "penstock_server.interceptor",
            "penstock_server.app",
            "penstock_server.supervisor",
            "grpc_health.v1.health",
            "grpc_reflection",
        ],
        "providers know nothing of gRPC's server side",
    ),
    (
        SERVER / "service.py",
        [
            "openai",
            "anthropic",
            "httpx",
            "penstock_server.config",
            "penstock_server.supervisor",
            "penstock_server.providers.sidecar",
        ],
        "the services know no vendor, process or configuration",
    ),
    (SERVER / "routing.py", ["grpc", "httpx"], "routing is pure"),
    (SERVER / "validation.py", ["grpc", "httpx", "asyncio"], "validation is pure"),
    (SERVER / "providers/assembler.py", ["grpc", "httpx", "asyncio"], "the assembler is pure"),
]


def sources(where: Path) -> Iterator[Path]:
    files = [where] if where.is_file() else where.rglob("*.py")
    yield from (file for file in files if "_pb2" not in file.name)


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("where", "forbidden", "why"), FORBIDDEN)
def test_rooms_know_only_what_they_should(where: Path, forbidden: list[str], why: str) -> None:
    assert where.exists()
    found = [
        f"{file.relative_to(ROOT)} imports {name}: {why}"
        for file in sources(where)
        for name in imports(file)
        for wrong in forbidden
        if name == wrong or name.startswith(f"{wrong}.")
    ]
    assert not found


def test_no_room_is_called_utils() -> None:
    vague = {"utils", "util", "common", "helpers", "misc"}
    tracked = [f for d in (CLIENT, SERVER, HF, MLX, ROOT / "tests") for f in sources(d)]
    assert not [f for f in tracked if f.stem in vague or f.parent.name in vague]


def test_every_module_says_its_purpose() -> None:
    rooms = [f for d in (CLIENT, SERVER, HF, MLX) for f in sources(d)]
    assert len(rooms) > 20
    assert not [f for f in rooms if not ast.get_docstring(ast.parse(f.read_text()))]


def test_nothing_sleeps_between_caller_and_engine() -> None:
    """Waiting is for events. `asyncio.sleep` is for pauses that are meant, and each is known."""
    known = {"app.py", "supervisor.py", "pool.py", "http_provider.py", "retry.py", "lmstudio.py"}
    known |= {"unread.py", "watchdog.py", "allocator.py"}  # look at something now and then
    known.add("shared.py")  # looks again for a place that another gateway's call has
    known.add("listener.py")
    sleepy = {f.name for f in sources(SERVER) if "asyncio.sleep(" in f.read_text()}
    assert sleepy <= known


# Import name → distribution, where they differ.
_DISTRIBUTIONS = {
    "PIL": {"pillow"},
    "google": {"protobuf", "googleapis-common-protos"},
    "grpc": {"grpcio"},
    "grpc_channelz": {"grpcio-channelz"},
    "grpc_health": {"grpcio-health-checking"},
    "grpc_reflection": {"grpcio-reflection"},
    "jsonschema_specifications": {"jsonschema-specifications"},
    "jwt": {"pyjwt"},
    "huggingface_hub": {"huggingface-hub"},
    "mlx_lm": {"mlx-lm"},
    "penstock_server": {"penstock-server"},
    "prometheus_client": {"prometheus-client"},
}

# What an engine brings, and the server's shared room only uses inside a sidecar; and what an extra
# brings, of a vendor's SDK or of ours, for those who use it.
_BROUGHT_BY_OTHERS = {"tokenizers", "llguidance", "numpy", "botocore", "redis"}


# A distribution may import what those that it stands on declare.
_STANDS_ON = {
    "clients/python": ["clients/python"],
    "server": ["clients/python", "server"],
    "sidecars/hf": ["clients/python", "server", "sidecars/hf"],
    "sidecars/mlx": ["clients/python", "server", "sidecars/mlx"],
}


def _declared(project: str) -> set[str]:
    table = tomllib.loads((ROOT / project / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\s\[<>=;]", line)[0].lower() for line in table["dependencies"]}
    return names | (_BROUGHT_BY_OTHERS if project == "server" else set())


@pytest.mark.parametrize(
    ("project", "package"),
    [("clients/python", CLIENT), ("server", SERVER), ("sidecars/hf", HF), ("sidecars/mlx", MLX)],
)
def test_what_is_imported_is_declared(project: str, package: Path) -> None:
    """An editable install beside the others hides what a real one would miss."""
    declared = set().union(*(_declared(each) for each in _STANDS_ON[project]))
    missing = {
        f"{file.relative_to(ROOT)}: {top}"
        for file in sources(package)
        for top in {name.partition(".")[0] for name in imports(file)}
        if top not in sys.stdlib_module_names | {package.name}
        and not declared & _DISTRIBUTIONS.get(top, {top})
    }
    assert not missing
