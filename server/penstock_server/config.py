"""Configuration: a TOML file, then the environment, then flags; the later one wins.

One table of sections serves all three: the key ``limits.max_message_bytes`` is
``[limits] max_message_bytes = …`` in the file, ``PENSTOCK_LIMITS__MAX_MESSAGE_BYTES`` in the
environment and ``--set limits.max_message_bytes=…`` as a flag. What is wrong is reported all at
once, each with its key and where it was set. Providers' sections are ``provider_settings``'.
"""

from __future__ import annotations

import argparse
import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from penstock_server.access_settings import (
    ACCESS_SECTIONS,
    DEFAULT_POLICY,
    AuthSettings,
    CallerSettings,
    PolicySettings,
    is_loopback,
    policies_named,
)
from penstock_server.limit_settings import LIMIT_SECTIONS, RedisSettings
from penstock_server.provider_settings import (
    NETWORK_KINDS,
    PROVIDER_SECTIONS,
    ProviderName,
    ProviderSettings,
)
from penstock_server.route_settings import ROUTE_SECTIONS, RouteSettings
from penstock_server.sections import Section, Strings
from penstock_server.server_settings import (
    SERVER_SECTIONS,
    Keepalive,
    Limits,
    Log,
    Metrics,
    Shutdown,
    Tls,
)

DEFAULT_FILE = "penstock.toml"
"""The gateway's file. Sidecars have none of their own: they are told by flags."""

DEFAULT_LISTEN = "127.0.0.1:50051"

# Names with our prefix that belong to the client or to the file itself, not to the server's keys.
_FOREIGN = frozenset({"CONFIG", "TARGET", "TOKEN", "MODEL", "CA", "CERT", "KEY", "TLS"})


class ConfigError(Exception):
    """The configuration cannot be used; the message has a line for each wrong key."""


class ServerConfig(Section):
    """What gateway and sidecars have in common."""

    listen: Strings = Field(default_factory=lambda: [DEFAULT_LISTEN], min_length=1)
    """Addresses: "host:port", "[::]:port" or "unix:/path"; port 0 picks a free one."""
    insecure: bool = False
    """Whether everybody may call who reaches an address that is not this machine's alone."""
    socket_mode: Annotated[str, Field(pattern="^0?[0-7]{3}$")] = "0600"
    """Who may use the Unix sockets among them, in octal: by default this user alone."""
    tls: Tls = Tls()
    limits: Limits = Limits()
    keepalive: Keepalive = Keepalive()
    shutdown: Shutdown = Shutdown()
    log: Log = Log()
    metrics: Metrics = Metrics()

    @property
    def identifies(self) -> bool:
        """Whether callers have to prove who they are."""
        return bool(self.tls.client_ca)

    @property
    def exposed(self) -> list[str]:
        """The addresses that others than this machine may reach."""
        return [address for address in self.listen if not is_loopback(address)]

    @model_validator(mode="after")
    def _not_open_to_everybody(self) -> Self:
        if self.exposed and not self.identifies and not self.insecure:
            raise ValueError(
                f"{', '.join(self.exposed)} may be reached from other machines, and nobody would "
                "have to prove who they are: configure callers, auth.jwt or tls.client_ca, or say "
                "--insecure (insecure = true) where something in front of it sees to that"
            )
        return self


class GatewayConfig(ServerConfig):
    """The gateway's configuration."""

    providers: dict[ProviderName, ProviderSettings] | None = None
    """Name → settings. Default: whatever is at hand; see ``gateway.default_providers``."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Names of one's own for models: alias → "provider/model"."""
    routes: dict[str, RouteSettings] = Field(default_factory=dict)
    """Names that stand for several models: name → the models, and how one is chosen."""
    auth: AuthSettings = AuthSettings()
    callers: dict[str, CallerSettings] = Field(default_factory=dict)
    """Who may call: name → what the caller proves itself by, and its policy."""
    policies: dict[str, PolicySettings] = Field(default_factory=dict)
    """What callers may do: name → models and limits."""
    redis: RedisSettings = RedisSettings()

    @property
    def identifies(self) -> bool:
        """Whether callers have to prove who they are."""
        known = any(caller.tokens for caller in self.callers.values()) or self.auth.jwt
        return bool(known or self.tls.client_ca) and not self.auth.anonymous

    @model_validator(mode="after")
    def _policies_exist(self) -> Self:
        for key, name in policies_named(self.auth, self.callers):
            if name != DEFAULT_POLICY and name not in self.policies:
                raise ValueError(f"{key}: there is no policy {name!r}")
        return self

    @model_validator(mode="after")
    def _one_caller_for_each(self) -> Self:
        seen: dict[str, str] = {}
        for name, caller in self.callers.items():
            shown = [t.hash for t in caller.tokens] + caller.certificates + caller.subjects
            for each in shown:
                if seen.setdefault(each, name) != name:
                    raise ValueError(f"callers: {seen[each]!r} and {name!r} both have {each!r}")
        return self


ConfigT = TypeVar("ConfigT", bound=ServerConfig)


def add_arguments(parser: argparse.ArgumentParser, default_file: str = "") -> None:
    """Add the flags that every server has; ``default_file`` is read where it exists."""
    group = parser.add_argument_group("server")
    default = f"./{default_file} where it exists" if default_file else "none"
    group.add_argument("--config", metavar="FILE", help=f"TOML file (default: {default})")
    parser.set_defaults(default_file=default_file)
    group.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help=f"host:port or unix:/path; may be repeated (default: {DEFAULT_LISTEN})",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="let everybody call who reaches an address that is not this machine's alone",
    )
    group.add_argument("--log-format", choices=["human", "json"], help="default: human")
    group.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    group.add_argument(
        "--log-prompts", action="store_true", default=None, help="log prompts and answers, too"
    )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set any key of the configuration, such as shutdown.drain=10",
    )


_FLAGS = {
    "listen": "listen",
    "insecure": "insecure",
    "log_format": "log.format",
    "log_level": "log.level",
    "log_prompts": "log.prompts",
}


def load(
    kind: type[ConfigT], args: argparse.Namespace, environ: Mapping[str, str], prefix: str
) -> ConfigT:
    """Read file, environment and flags, and check them.

    ``prefix`` is the environment's, such as "PENSTOCK_". Raises `ConfigError` with a line for
    each key that is wrong.

    Example::

        config = load(GatewayConfig, args, os.environ, "PENSTOCK_")
    """
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, key, value in (
        *_from_file(args.config or environ.get(f"{prefix}CONFIG", ""), args.default_file),
        *_from_environment(kind, environ, prefix),
        *_from_flags(args),
    ):
        _put(tree, key, value, origin)
        origins[key] = origin
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(kind, error, origins))) from None


def file_of(args: argparse.Namespace, environ: Mapping[str, str], prefix: str) -> Path | None:
    """The file that `load` reads, which need not be there yet; None where there is none."""
    name = args.config or environ.get(f"{prefix}CONFIG", "") or args.default_file
    return Path(name) if name else None


def _from_file(name: str, default: str) -> Iterator[tuple[str, str, object]]:
    path = Path(name or default)
    if not name and not (default and path.exists()):
        return
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    for key, value in _leaves(table):
        yield str(path), key, value


def _from_environment(
    kind: type[ServerConfig], environ: Mapping[str, str], prefix: str
) -> Iterator[tuple[str, str, object]]:
    for name in sorted(environ):
        rest = name.removeprefix(prefix)
        if rest == name or rest in _FOREIGN or not rest:
            continue
        key = rest.lower().replace("__", ".")
        if key.split(".")[0] not in kind.model_fields:
            if rest.startswith("SIDECAR_"):  # the sidecars' own prefix
                continue
            raise ConfigError(f"{name}: sets no key that exists{_near(key, kind.model_fields)}")
        yield f"environment variable {name}", key, environ[name]


def _from_flags(args: argparse.Namespace) -> Iterator[tuple[str, str, object]]:
    for name, key in _FLAGS.items():
        value = getattr(args, name)
        if value is not None:
            yield f"--{name.replace('_', '-')}", key, value
    for assignment in args.set:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: write KEY=VALUE")
        yield f"--set {assignment}", key, value


def _leaves(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        # Quoting keeps a key that holds dots (a file name, say) in one piece.
        name = f"{path}{key}" if "." not in key else f'{path}"{key}"'
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _split(key: str) -> list[str]:
    parts = key.split('"')
    names: list[str] = []
    for index, part in enumerate(parts):
        names += [part] if index % 2 else [name for name in part.split(".") if name]
    return names


def _put(tree: dict[str, Any], key: str, value: object, origin: str) -> None:
    *tables, last = _split(key)
    for name in tables:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{key}: {name} is not a table ({origin})")
    tree[last] = value


def _explain(
    kind: type[ServerConfig], error: ValidationError, origins: Mapping[str, str]
) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        # A discriminated union puts its choice into the path, where no caller wrote it.
        path = [str(step) for step in problem["loc"] if step not in ("sidecar", *NETWORK_KINDS)]
        key = ".".join(path)
        origin = next(
            (o for k, o in origins.items() if k == key or k.startswith(f"{key}.")), ""
        ) or next((o for k, o in origins.items() if key.startswith(f"{k}.")), "")
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"there is no such key{_near(path[-1], _known_keys(kind))}"
        yield f"{key or 'configuration'}: {message}" + (f" ({origin})" if origin else "")


_SECTIONS = (*SERVER_SECTIONS, *ROUTE_SECTIONS, *ACCESS_SECTIONS, *LIMIT_SECTIONS)


def _known_keys(kind: type[ServerConfig]) -> set[str]:
    sections = (kind, *_SECTIONS, *PROVIDER_SECTIONS)
    return {name for section in sections for name in section.model_fields}


def _near(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
