"""From configuration to providers: what the gateway serves."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from penstock_server import network
from penstock_server.circuit import Circuit, CircuitPolicy
from penstock_server.compute import WAITING, with_openblas
from penstock_server.config import ConfigError, GatewayConfig
from penstock_server.provider_settings import NetworkSettings, ProviderSettings, SidecarSettings
from penstock_server.providers import Provider
from penstock_server.providers.sidecar import SidecarProvider
from penstock_server.routes import RouteProvider, Target
from penstock_server.supervisor import SidecarProcess
from penstock_server.telemetry import log

ENGINES = {"hf": "penstock_hf", "mlx": "penstock_mlx"}
"""Engine → the module that runs its sidecar."""

_NUMBERS = (
    "threads",
    "context_length",
    "prefill_chunk",
    "max_batch",
    "memory",
    "cache_memory",
    "keep_alive",
)
"""Settings that a sidecar has a flag of the same name for, and a default of its own."""

EMBEDDED_MODEL = Path("models/tiny")


def default_providers(environ: Mapping[str, str]) -> dict[str, ProviderSettings]:
    """What is served where the configuration names no provider.

    The embedded model as "local/tiny", where its directory is at hand; every hosted provider
    whose key is in the environment; Ollama and LM Studio at their usual ports.
    """
    settings: dict[str, ProviderSettings] = {}
    tiny = embedded_model()
    if tiny is not None:
        settings["local"] = SidecarSettings(kind="sidecar", models={"tiny": str(tiny)})
    else:
        log(logging.INFO, f"no {EMBEDDED_MODEL} here: not serving the embedded model")
    for kind in network.at_hand(environ):
        settings[kind] = NetworkSettings.model_validate({"kind": kind})
    return settings


def embedded_model() -> Path | None:
    """Where the embedded model is: in the checkout, or below the working directory."""
    for root in (Path(__file__).parents[2], Path.cwd()):
        if (root / EMBEDDED_MODEL / "config.json").is_file():
            return root / EMBEDDED_MODEL
    return None


def make_providers(config: GatewayConfig, environ: Mapping[str, str]) -> list[Provider]:
    """The providers of a configuration, not yet started."""
    settings = config.providers
    if settings is None:
        settings = default_providers(environ)
    check_names(config, settings)
    providers: list[Provider] = []
    for name, one in settings.items():
        if isinstance(one, SidecarSettings):
            providers.append(_sidecar(name, one, config))
        else:
            try:
                providers.append(network.make(name, one, environ))
            except ValueError as error:  # a URL, a key or a region that cannot be right
                raise ConfigError(f"providers.{name}: {error}") from None
    return providers


def check_names(config: GatewayConfig, providers: Collection[str]) -> None:
    """Whether aliases and routes lead to providers of these names; raises `ConfigError`."""
    targets = [(f"aliases.{alias}", target) for alias, target in config.aliases.items()]
    for name, route in config.routes.items():
        if name in providers or name in config.aliases:
            raise ConfigError(f"routes.{name}: a provider or an alias has this name already")
        targets += ((f"routes.{name}.targets", target.model) for target in route.targets)
    for key, target in targets:
        provider, _, model = target.partition("/")
        if provider not in providers or not model:
            raise ConfigError(
                f"{key}: {target!r} is not 'provider/model' with a configured provider"
            )


def make_routes(config: GatewayConfig, providers: Iterable[Provider]) -> list[RouteProvider]:
    """The routes of a configuration whose names are right, to these providers."""
    known = {provider.name: provider for provider in providers}
    routes: list[RouteProvider] = []
    for name, settings in config.routes.items():
        policy = CircuitPolicy(**settings.circuit.model_dump())
        targets: list[Target] = []
        for one in settings.targets:
            provider, _, model = one.model.partition("/")
            targets.append(Target(known[provider], model, one.weight, Circuit(policy)))
        routes.append(RouteProvider(name, targets, settings.strategy, settings.fallback_on))
    return routes


def _sidecar(name: str, settings: SidecarSettings, config: GatewayConfig) -> Provider:
    if settings.addresses:
        return SidecarProvider(name, settings.addresses, None, settings.ready_timeout or 5.0)
    address = f"unix:{_private_directory()}/{name}.sock"
    process = SidecarProcess(
        name, sidecar_command(settings, address, config), _environment(settings)
    )
    return SidecarProvider(name, [address], process, settings.ready_timeout or 60.0)


def sidecar_command(settings: SidecarSettings, address: str, config: GatewayConfig) -> list[str]:
    """The command line that runs a sidecar with these settings."""
    command = [settings.python or sys.executable, "-m", ENGINES[settings.engine]]
    command += ["--lifeline", "--listen", address]
    command += ["--device", settings.device, "--dtype", settings.dtype]
    command += ["--max-queue", str(settings.max_queue)]
    command += ["--log-format", config.log.format, "--log-level", config.log.level]
    command += ["--set", f"limits.max_message_bytes={config.limits.max_message_bytes}"]
    command += ["--set", "shutdown.notice=0"]  # nobody but the gateway calls it
    for key in _NUMBERS:
        value = getattr(settings, key)
        if value is not None:  # else the sidecar's own default
            command += [f"--{key.replace('_', '-')}", str(value)]
    if settings.attention != "auto":
        command += ["--attention", settings.attention]
    for key in ("lazy", "trust_remote_code"):
        if getattr(settings, key):
            command += [f"--{key.replace('_', '-')}"]
    if config.log.prompts:
        command += ["--log-prompts"]
    for model, source in settings.models.items():
        command += ["--model", f"{model}={source}"]
    return command


def _environment(settings: SidecarSettings) -> dict[str, str]:
    """A sidecar's environment: ours, without the keys that it has no use for."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in network.KEY_VARIABLES and not name.startswith("PENSTOCK_PROVIDERS")
    }
    environment = {**WAITING, **environment}
    if settings.engine == "mlx":
        environment = with_openblas(environment, settings.threads)
    return environment


def _private_directory() -> str:
    """A directory for sockets that only this user can reach, removed when the gateway ends."""
    directory = tempfile.mkdtemp(prefix="penstock-")  # mode 0700
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory
