"""Does the compiled contract run on every protobuf that the client allows?

Run by ``make check``. Each version gets an environment of its own under ``build/``, since one
process can load only one.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The oldest that clients/python/pyproject.toml allows, with a gRPC of its time, and the newest.
VERSIONS = {
    "oldest": ["protobuf==6.31.1", "grpcio==1.76.0"],
    "newest": ["protobuf>=7,<8", "grpcio"],
}

PROGRAM = """
import google.protobuf, grpc
from penstock import v1
request = v1.GenerateRequest(model="local/tiny", messages=[v1.Message(role=v1.ROLE_USER)])
assert v1.GenerateRequest.FromString(request.SerializeToString()) == request
v1.GenerationServiceStub(grpc.insecure_channel("localhost:1"))
print("contract runs on protobuf", google.protobuf.__version__, "with grpcio", grpc.__version__)
"""


def main() -> None:
    """Run the program on each version; fail where one fails."""
    for name, pins in VERSIONS.items():
        home = ROOT / "build" / f"protobuf-{name}"
        python = home / "bin" / "python"
        if not python.exists():
            venv.create(home, with_pip=True)
        quiet = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([python, *quiet, *pins], check=True)
        # Only the contract: the client around it needs more packages.
        subprocess.run(
            [python, "-W", "error", "-c", f"{_contract_alone()}{PROGRAM}"], check=True, cwd=ROOT
        )


def _contract_alone() -> str:
    """Import ``penstock.v1`` without running ``penstock/__init__.py``."""
    path = str(ROOT / "clients" / "python" / "penstock")
    return (
        "import sys, types\n"
        "package = types.ModuleType('penstock')\n"
        f"package.__path__ = [{path!r}]\n"
        "sys.modules['penstock'] = package\n"
    )


if __name__ == "__main__":
    main()
