"""From configuration to providers, routes and the door: what the gateway serves, and whom."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from penstock_server import network
from penstock_server.access_settings import AuthSettings, JwtSettings
from penstock_server.assembly import Assembly
from penstock_server.circuit import Circuit, CircuitPolicy
from penstock_server.compute import WAITING, with_openblas
from penstock_server.config import ConfigError, GatewayConfig
from penstock_server.hedging import HedgePolicy
from penstock_server.identity import Door
from penstock_server.jwks import KeySet
from penstock_server.limit_settings import CallLimits, RedisSettings
from penstock_server.limits import Limits
from penstock_server.limits.rates import Ledger
from penstock_server.limits.shared import SharedLedger
from penstock_server.provider_settings import NetworkSettings, ProviderSettings, SidecarSettings
from penstock_server.providers import Provider
from penstock_server.providers.sidecar import SidecarProvider
from penstock_server.routes import RouteProvider, Target
from penstock_server.supervisor import SidecarProcess
from penstock_server.telemetry import log
from penstock_server.tls import ChannelCertificates

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


class Gateway:
    """Makes what a configuration says, and again when it has changed: what stays the same stays.

    A provider is made anew only where its own settings have changed, and its sidecar restarted only
    then; a limiter keeps its counts and a circuit its state for as long as what bounds them stays.
    What is wrong raises `ConfigError` before anything is touched.

    Example::

        gateway = Gateway(os.environ)
        assembly = gateway.assemble(config)
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._made: dict[str, tuple[object, Provider]] = {}
        self._limits = Limits()
        self._redis = RedisSettings()
        self._circuits: dict[tuple[str, str, CircuitPolicy], Circuit] = {}
        self._keys: tuple[JwtSettings, KeySet] | None = None

    def assemble(self, config: GatewayConfig) -> Assembly:
        """What a configuration says."""
        settings = config.providers
        if settings is None:
            settings = default_providers(self._environ)
        check_names(config, settings)
        made = {name: self._provider(name, one, config) for name, one in settings.items()}
        if config.redis != self._redis:
            self._limits = Limits(_ledger(config.redis))
            self._redis = config.redis
        self._made = made
        providers = {name: provider for name, (_, provider) in made.items()}
        for name, provider in providers.items():
            provider.limiter = self._limits.of(f"provider/{name}", settings[name].limits)
        return Assembly(
            providers=list(providers.values()),
            aliases=config.aliases,
            routes=self._routes(config, providers),
            door=self._door(config),
            ledger=self._limits.ledger,
        )

    def _provider(
        self, name: str, settings: ProviderSettings, config: GatewayConfig
    ) -> tuple[object, Provider]:
        """A provider, and what it has been made of."""
        own = settings.model_copy(update={"limits": CallLimits()})
        key = (own, config.log, config.limits) if isinstance(own, SidecarSettings) else own
        known = self._made.get(name)
        if known is not None and known[0] == key:
            return known
        if isinstance(settings, SidecarSettings):
            return key, _sidecar(name, settings, config)
        try:
            return key, network.make(name, settings, self._environ)
        except ValueError as error:  # a URL, a key or a region that cannot be right
            raise ConfigError(f"providers.{name}: {error}") from None

    def _routes(
        self, config: GatewayConfig, providers: Mapping[str, Provider]
    ) -> Sequence[RouteProvider]:
        """The routes of a configuration whose names are right, to these providers."""
        circuits: dict[tuple[str, str, CircuitPolicy], Circuit] = {}
        routes: list[RouteProvider] = []
        for name, settings in config.routes.items():
            policy = CircuitPolicy(**settings.circuit.model_dump())
            targets: list[Target] = []
            for one in settings.targets:
                provider, _, model = one.model.partition("/")
                key = (name, one.model, policy)
                circuits[key] = self._circuits.get(key) or Circuit(policy)
                targets.append(Target(providers[provider], model, one.weight, circuits[key]))
            hedge = None if settings.hedge is None else HedgePolicy(**settings.hedge.model_dump())
            route = RouteProvider(name, targets, settings.strategy, settings.fallback_on, hedge)
            route.limiter = self._limits.of(f"route/{name}", settings.limits)
            routes.append(route)
        self._circuits = circuits
        return routes

    def _door(self, config: GatewayConfig) -> Door | None:
        """None where nothing is said of callers: then they may show what they like."""
        if config.auth.jwt is None:
            self._keys = None
        elif self._keys is None or self._keys[0] != config.auth.jwt:
            self._keys = (config.auth.jwt, KeySet(config.auth.jwt))
        door = Door(
            config.auth,
            config.callers,
            config.policies,
            self._limits,
            certificates=bool(config.tls.client_ca),
            keys=self._keys[1] if self._keys else None,
        )
        return door if door.asks or config.auth != AuthSettings() else None


def _ledger(settings: RedisSettings) -> Ledger | None:
    if not settings.url.get_secret_value():
        return None
    try:
        return SharedLedger(settings)
    except ValueError as error:
        raise ConfigError(f"redis: {error}") from None


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


def _sidecar(name: str, settings: SidecarSettings, config: GatewayConfig) -> Provider:
    if settings.addresses:
        try:
            tls = None if settings.tls is None else ChannelCertificates(settings.tls)
        except ConfigError as error:
            raise ConfigError(f"providers.{name}.{error}") from None
        return SidecarProvider(
            name,
            settings.addresses,
            ready_timeout=settings.ready_timeout or 5.0,
            tls=tls,
            affinity=settings.affinity,
        )
    address = f"unix:{_private_directory()}/{name}.sock"
    process = SidecarProcess(
        name, sidecar_command(settings, address, config), _environment(settings)
    )
    return SidecarProvider(
        name, [address], process, settings.ready_timeout or 60.0, settings.silence_timeout
    )


def sidecar_command(settings: SidecarSettings, address: str, config: GatewayConfig) -> list[str]:
    """The command line that runs a sidecar with these settings."""
    command = [settings.python or sys.executable, "-m", ENGINES[settings.engine]]
    command += ["--lifeline", "--listen", address]
    command += ["--device", settings.device, "--dtype", settings.dtype]
    command += ["--max-queue", str(settings.max_queue)]
    command += ["--log-format", config.log.format, "--log-level", config.log.level]
    command += ["--set", f"limits.max_message_bytes={config.limits.max_message_bytes}"]
    command += ["--set", "limits.unread_timeout=0"]  # the gateway knows who reads
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
