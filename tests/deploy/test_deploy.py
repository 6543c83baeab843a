"""The deployment's files: valid, true to the programs that they start, and as closed as they say.

Nothing here needs a container engine: the programs are started as the containers would start
them, and pip is asked whether it could install what the images install.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import (
    COMPOSE_FILE,
    ROOT,
    Image,
    Service,
    compose,
    kept_from_builder,
    seconds,
    services,
    variables,
)
from tests.support.processes import ServerProcess

DEPLOY = ROOT / "deploy"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
IMAGES = {path.stem: Image(path) for path in sorted(DEPLOY.glob("*.Dockerfile"))}
SERVICES = services()
SIDECARS = ["hf", "mlx"]

# What a sidecar's program does up to the moment at which it would begin to serve.
_ALL_BUT_SERVING = """
import runpy, sys
from penstock_server import process
process.run = lambda settings, *_, **__: print(settings.model_dump_json()) or 0
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

each_image = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())


def clean_environment(own: Mapping[str, str]) -> dict[str, str]:
    """A container's environment: nothing of ours but what a process needs to run at all."""
    needed = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**needed, **own}


def run(*command: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def checked(service: Service, cwd: Path, **environ: str) -> dict[str, Any]:
    """The configuration that a service's program makes of its command line and environment."""
    image = service.image
    module = image.module(image.entrypoint[0])
    arguments = [*image.entrypoint[1:], *service.arguments]
    how = ["-m", module, "--check"] if service.name == "gateway" else ["-c", _ALL_BUT_SERVING]
    command = [*how, *arguments] if service.name == "gateway" else [*how, module, *arguments]
    result = run(*command, cwd=cwd, env={**service.environment, **environ})
    assert result.returncode == 0, f"{service.name}: {' '.join(arguments)}:\n{result.stderr}"
    settings: dict[str, Any] = json.loads(result.stdout)
    return settings


# --- The compose file by itself ---------------------------------------------------------------


def test_compose_file_follows_the_specification(tmp_path: Path) -> None:
    schema = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    result = run(*schema, str(COMPOSE_FILE), cwd=tmp_path, env={})
    assert result.returncode == 0, result.stdout + result.stderr


def test_its_profiles_are_the_documented_ones() -> None:
    profiles = {name: s.settings.get("profiles", []) for name, s in SERVICES.items()}
    assert profiles == {"gateway": [], "hf": [], "mlx": ["mlx"]}
    assert "--profile mlx" in README
    for name, service in SERVICES.items():
        for other, how in service.settings.get("depends_on", {}).items():
            assert profiles[other] == [], f"{name} would not start without a profile"
            assert how == {"condition": "service_healthy"}
            assert SERVICES[other].settings["healthcheck"]


def test_its_variables_are_documented_and_no_business_of_the_server() -> None:
    for name in variables():
        # Where it is exported, a server that is run beside compose would not know the key.
        assert not name.startswith("PENSTOCK_")
        assert f"`{name}`" in README


@each_service
def test_service_has_few_rights(service: Service) -> None:
    settings = service.settings
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["read_only"] is True
    assert settings["user"] == service.image.user
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & set(settings)
    # Weights and configuration are only read; what is written goes to volumes.
    assert set(service.writable) == set(service.volumes)


@each_service
def test_service_can_write_to_tmp(service: Service) -> None:
    (mount,) = service.settings["tmpfs"]
    path, _, options = mount.partition(":")
    assert path == "/tmp"
    # MLX compiles its kernels there and loads them; nobody else is to run anything from there.
    assert ("exec" in options.split(",")) == (service.name == "mlx")


@each_service
def test_service_publishes_on_the_loopback_address_alone(service: Service) -> None:
    published = service.settings.get("ports", [])
    assert bool(published) == (service.name == "gateway"), "only the gateway is to be reached"
    for port in published:
        address, _, inside = port.rpartition(":")
        assert address.startswith("127.0.0.1:")
        assert int(inside) in service.image.ports


@each_service
def test_what_a_service_mounts_exists(service: Service) -> None:
    for source in service.binds.values():
        assert source.exists(), source
    for target, volume in service.volumes.items():
        assert volume in compose()["volumes"]
        # A new volume takes its owner from the image's directory; without one, it is root's.
        owner = f"--owner={service.image.user.partition(':')[0]}"
        assert any(owner in step and step.endswith(target) for step in service.image.runs), target


@each_service
def test_models_that_a_service_is_given_exist(service: Service) -> None:
    for argument in service.arguments:
        name, equals, path = argument.partition("=")
        if equals:
            assert (Path(path) / "config.json").is_file(), f"no model {name} in {path}"


# --- The images -------------------------------------------------------------------------------


def test_there_is_an_image_for_each_service() -> None:
    assert {service.image.path for service in SERVICES.values()} == {
        image.path for image in IMAGES.values()
    }


@each_image
def test_image_is_built_from_what_is_there(image: Image) -> None:
    for source in image.copied.values():
        assert source.is_file() or (source / "pyproject.toml").is_file(), source
        for path in (source, *source.rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            waste = re.search(r"/(__pycache__|\.\w+_cache|\w+\.egg-info)(/|$)", name)
            assert kept_from_builder(name) == bool(waste), name


def test_nothing_else_goes_to_the_builder() -> None:
    for path in (".git/config", "models/tiny/model.safetensors", ".env", "server/.env.local"):
        assert kept_from_builder(path), path


@each_image
def test_images_share_a_python_that_the_packages_support(image: Image) -> None:
    assert image.base == IMAGES["gateway"].base
    match = re.fullmatch(r"python:3\.(\d+)-slim", image.base)
    assert match, image.base
    assert int(match[1]) >= 11  # as each pyproject.toml says


@each_image
def test_image_runs_as_a_fixed_user_and_stops_on_sigterm(image: Image) -> None:
    user, _, group = image.user.partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    assert any(f"--uid {user} --gid {group}" in step for step in image.runs)
    assert image.stop_signal == "SIGTERM"


@each_image
def test_image_starts_a_command_that_it_installs(image: Image) -> None:
    installed = [word for step in image.pip_installs for word in step]
    for project in image.projects:
        assert str(project) in installed, f"{project} is copied, but not installed"
    assert image.module(image.entrypoint[0])
    assert image.module(image.healthcheck[0])


# --- The programs -----------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["", "mlx"])
def test_gateway_accepts_its_configuration(profile: str, tmp_path: Path) -> None:
    name = f"./deploy/penstock-{profile}.toml" if profile else "./deploy/penstock.toml"
    assert not profile or name in README
    active = {
        k: s for k, s in SERVICES.items() if s.settings.get("profiles", []) in ([], [profile])
    }
    found = checked(services(GATEWAY_CONFIG=name)["gateway"], tmp_path)
    addresses = {a for p in found["providers"].values() for a in p["addresses"]}
    assert addresses == {f"{k}:{s.image.ports[0]}" for k, s in active.items() if k != "gateway"}


def test_gateway_accepts_what_its_configuration_offers_in_comments(tmp_path: Path) -> None:
    text = (DEPLOY / "penstock.toml").read_text(encoding="utf-8")
    everything = tmp_path / "everything.toml"
    everything.write_text(re.sub(r"(?m)^# (?=\[|\w+ = )", "", text), encoding="utf-8")
    gateway = services(GATEWAY_CONFIG=str(everything))["gateway"]
    found = checked(gateway, tmp_path)["providers"]
    assert set(found) == {"local", "openai", "anthropic", "ollama"}
    for provider in found.values():
        key = provider.get("api_key_env")
        assert not key or key in gateway.settings["environment"], f"{key} is not handed down"


@pytest.mark.parametrize("sidecar", SIDECARS)
def test_sidecar_accepts_its_command_line(sidecar: str, tmp_path: Path) -> None:
    checked(SERVICES[sidecar], tmp_path)


@each_service
def test_service_is_reached_where_it_listens(service: Service, tmp_path: Path) -> None:
    (port,) = service.image.ports
    settings = checked(service, tmp_path)
    assert settings["listen"] == [f"[::]:{port}"]
    assert settings["log"]["format"] == "json"
    assert service.environment["PENSTOCK_TARGET"] == f"127.0.0.1:{port}"


@each_service
def test_service_has_the_time_to_finish_its_calls(service: Service, tmp_path: Path) -> None:
    shutdown = checked(service, tmp_path)["shutdown"]
    needed = shutdown["notice"] + shutdown["drain"] + 5  # the last statuses, and closing
    assert seconds(service.settings["stop_grace_period"]) > needed


@each_service
def test_health_check_is_the_images_and_fails_where_nobody_answers(
    service: Service, tmp_path: Path
) -> None:
    check = service.settings["healthcheck"]
    assert check["test"] == ["CMD", *service.image.healthcheck]
    program, *arguments = service.image.healthcheck
    patience = float(arguments[arguments.index("--timeout") + 1])
    assert patience < seconds(check["timeout"]), "it is to report by itself"
    module = service.image.module(program)
    result = run("-m", module, *arguments, cwd=tmp_path, env={"PENSTOCK_TARGET": "127.0.0.1:1"})
    # Docker keeps every code beside 0 and 1 for itself; 2 would be wrong usage.
    assert result.returncode == 1, result.stderr


@pytest.mark.parametrize("sidecar", SIDECARS)
def test_services_work_together(sidecar: str, tmp_path: Path) -> None:
    def penstock(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run("-m", "penstock.cli", *arguments, cwd=tmp_path, env={"PENSTOCK_TARGET": target})

    def start(service: Service, *arguments: str) -> ServerProcess:
        image = service.image
        module = image.module(image.entrypoint[0])
        return ServerProcess(module, *service.arguments, *arguments, env=service.environment)

    member, gateway = SERVICES[sidecar], SERVICES["gateway"]
    health = member.image.healthcheck[1:]
    with start(member) as one:
        address = one.ready().address
        assert penstock(address, *health).returncode == 0
        with start(gateway, "--set", f"providers.local.addresses={address}") as other:
            address = other.ready().address
            assert penstock(address, *health).returncode == 0
            answer = penstock(address, "generate", "--max-tokens", "8", "--no-stream", "Hello!")
            assert answer.returncode == 0, answer.stderr
            assert other.stop() == 0
            assert penstock(address, *health).returncode == 1
        assert one.stop() == 0


# --- What the images install ------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_pip_can_install_what_the_images_install(tmp_path: Path) -> None:
    steps = [step for image in IMAGES.values() for step in image.pip_installs]
    for step in steps:
        assert ("--constraint", str(ROOT / "constraints.txt")) in pairwise(step)
    # All at once: what can be installed together can be installed apart, and pip reads each page
    # of its index only once. Its cache is for images to do without, not for tests.
    words = dict.fromkeys(word for step in steps for word in step if word != "--no-cache-dir")
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    # With our environment: it may say which index is to be used.
    result = subprocess.run(
        [*pip, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"pip install {' '.join(words)}\n{result.stderr}"
