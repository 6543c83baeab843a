"""How a client reaches its server: channel policy, target, TLS, token, deadlines. Pure.

Everything here is decided before the first call and shared by both flavours; opening channels,
and anything that waits, belongs to ``sync`` and ``aio``.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import grpc

Metadata: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]
"""gRPC metadata: keys, and text (bytes for keys that end in "-bin")."""

Options: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]
"""gRPC channel arguments, such as ``{"grpc.lb_policy_name": "round_robin"}``."""

PEM: TypeAlias = str | os.PathLike[str] | bytes
"""A PEM file's path, or PEM text itself as bytes."""

DEFAULT_TARGET = "127.0.0.1:50051"
TARGET_VARIABLE = "PENSTOCK_TARGET"
TOKEN_VARIABLE = "PENSTOCK_TOKEN"

DEFAULT_MAX_RECEIVE_BYTES = 64 * 1024 * 1024

SERVICES = (
    "penstock.v1.GenerationService",
    "penstock.v1.ModelService",
    "penstock.v1.EmbeddingService",
)

HEALTH_CHECK = "/grpc.health.v1.Health/Check"

# gRPC never tries again once a response has begun, so a stream that has brought something is
# never started over. Health checks are left out: they ask about now.
RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

CHANNEL_OPTIONS: Mapping[str, Any] = {
    # A model may think for minutes without a byte on the wire, while NATs forget idle
    # connections sooner. Penstock's server permits a ping every 10 s without data.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 15_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,  # no limit
    # gRPC would wait up to two minutes between attempts to reach a server that restarts.
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 5_000,
    # The server knows its own limit, and names it better than a client could.
    "grpc.max_send_message_length": -1,
    # An error that names many fields outgrows the default of 8 KiB.
    "grpc.max_metadata_size": 64 * 1024,
    "grpc.enable_retries": 1,
    # Requests with images are larger than the default of 256 KiB, and would not be retried.
    "grpc.per_rpc_retry_buffer_size": 64 * 1024 * 1024,
    "grpc.service_config": json.dumps(
        {
            "methodConfig": [
                {"name": [{"service": name} for name in SERVICES], "retryPolicy": RETRY_POLICY}
            ],
            # Where calls are balanced over several servers (grpc.lb_policy_name), one that is
            # stopping gets no more of them: this service serves until then, models or not.
            "healthCheckConfig": {"serviceName": "penstock.v1.ModelService"},
        }
    ),
}

_SCHEMES = {"grpc://": False, "grpcs://": True}  # ours: whether TLS is on


@dataclass(frozen=True, slots=True)
class TLSOptions:
    """Certificates for a TLS connection. Each is a PEM file's path, or PEM bytes.

    Attributes:
        ca: whom to trust. Default: gRPC's own root certificates, or those of the file that
            ``GRPC_DEFAULT_SSL_ROOTS_FILE_PATH`` names.
        certificate: this client's certificate chain, for mutual TLS.
        key: the private key that goes with it.
        server_name: the name the server's certificate has to carry. Default: the target's host.

    Example::

        tls = penstock.TLSOptions(ca="ca.pem", certificate="me.pem", key="me.key")
        client = penstock.Client("gateway.example.com:443", tls=tls)
    """

    ca: PEM | None = None
    certificate: PEM | None = None
    key: PEM | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLSOptions: certificate and key go together")


class CallArguments(TypedDict):
    """The keyword arguments of a call on a gRPC stub."""

    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client was told, checked and complete: all that is needed to open a channel."""

    target: str
    """For gRPC, without a scheme of ours."""
    options: tuple[tuple[str, Any], ...] = field(repr=False)
    credentials: grpc.ChannelCredentials | None = field(repr=False)
    """None: plaintext."""
    metadata: tuple[tuple[str, str | bytes], ...] = field(repr=False)
    """Of every call, the token included."""
    timeout: float | None
    """Of every call that names none, in seconds."""

    def call(self, timeout: float | None, metadata: Metadata | None) -> CallArguments:
        """What a call passes to gRPC: its own timeout and metadata before the client's.

        An infinite timeout means none; metadata replaces the client's under the same keys.
        """
        chosen = self.timeout if timeout is None else timeout
        return {
            "timeout": None if chosen is None or math.isinf(chosen) else chosen,
            "metadata": self.metadata if not metadata else _replace(self.metadata, metadata),
        }


def settings(
    target: str | None = None,
    *,
    token: str | None = None,
    tls: bool | TLSOptions | None = None,
    timeout: float | None = None,
    metadata: Metadata | None = None,
    options: Options | None = None,
    max_receive_bytes: int = DEFAULT_MAX_RECEIVE_BYTES,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Turns a client's arguments, and the environment behind them, into `Settings`.

    Raises ValueError where they make no sense or would send a token in the clear, OSError where
    a certificate's file cannot be read.
    """
    address, certificates = _resolve(target or environ.get(TARGET_VARIABLE) or DEFAULT_TARGET, tls)
    token = (environ.get(TOKEN_VARIABLE, "") if token is None else token).strip()
    if token:
        _check_token(token, address, encrypted=certificates is not None or tls is False)
    arguments: dict[str, Any] = {
        **CHANNEL_OPTIONS,
        "grpc.primary_user_agent": user_agent(),
        "grpc.max_receive_message_length": max_receive_bytes,
    }
    if certificates is not None and certificates.server_name:
        arguments["grpc.ssl_target_name_override"] = certificates.server_name
        arguments["grpc.default_authority"] = certificates.server_name
    arguments.update(options or {})
    bearer = (("authorization", f"Bearer {token}"),) if token else ()
    return Settings(
        target=address,
        options=tuple(arguments.items()),
        credentials=None if certificates is None else _credentials(certificates),
        metadata=_replace(bearer, metadata or ()),
        timeout=timeout,
    )


@cache
def version() -> str:
    """This package's version, read on demand: looking it up costs more than our own imports."""
    from importlib import metadata

    try:
        return metadata.version("penstock")
    except metadata.PackageNotFoundError:  # run from its sources, or packed into a program
        return "0+unknown"


def user_agent() -> str:
    """What the client calls itself in the server's log; gRPC adds its own name and version."""
    return f"penstock-python/{version()}"


def _resolve(target: str, tls: bool | TLSOptions | None) -> tuple[str, TLSOptions | None]:
    """The address for gRPC, and the certificates where TLS is on."""
    if re.match("https?://", target):
        raise ValueError(
            f"target {target!r}: write host:port, or grpcs://host:port for TLS, and no http"
        )
    scheme = next((scheme for scheme in _SCHEMES if target.startswith(scheme)), "")
    address = target.removeprefix(scheme).rstrip("/") if scheme else target
    if not address:
        raise ValueError(f"target {target!r}: names no host")
    if scheme and tls is not None and bool(tls) is not _SCHEMES[scheme]:
        raise ValueError(f"target {target!r} and tls={tls!r} contradict each other")
    if isinstance(tls, TLSOptions):
        return address, tls
    return address, TLSOptions() if tls or _SCHEMES.get(scheme) else None


def _check_token(token: str, address: str, *, encrypted: bool) -> None:
    if not (token.isascii() and token.isprintable()):
        raise ValueError("token: must be printable ASCII")
    if not encrypted and not is_local(address):
        raise ValueError(
            f"the token would go to {address} in the clear: turn TLS on (grpcs://{address}, "
            "tls=True), or allow it where the network itself is safe (tls=False, --insecure)"
        )


def is_local(address: str) -> bool:
    """Whether a gRPC address stays on this machine: a Unix socket, or loopback hosts only.

    Example::

        is_local("dns:///localhost:50051")  # True
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    scheme, separator, rest = address.partition(":")
    if separator and scheme in ("dns", "ipv4", "ipv6"):
        address = rest.rpartition("/")[2]  # after dns://authority/
    return all(_is_loopback(part) for part in address.split(","))


def _is_loopback(host_and_port: str) -> bool:
    host = host_and_port
    if match := re.fullmatch(r"\[(.*)\](:\w+)?", host):
        host = match[1]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _credentials(tls: TLSOptions) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_pem("ca", tls.ca),
        private_key=_pem("key", tls.key),
        certificate_chain=_pem("certificate", tls.certificate),
    )


def _pem(name: str, source: PEM | None) -> bytes | None:
    if source is None:
        return None
    if not isinstance(source, bytes):
        source = Path(source).read_bytes()
    if b"-----BEGIN" not in source:  # gRPC would only fail at the first call, and not say why
        raise ValueError(f"TLS {name}: holds no PEM")
    return source


def _replace(
    metadata: tuple[tuple[str, str | bytes], ...], by: Metadata
) -> tuple[tuple[str, str | bytes], ...]:
    pairs = by.items() if isinstance(by, Mapping) else by
    new = tuple((key.lower(), value) for key, value in pairs)  # gRPC refuses capitals
    named = {key for key, _ in new}
    return (*(pair for pair in metadata if pair[0] not in named), *new)
