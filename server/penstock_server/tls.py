"""Certificates of servers, and of gateways towards sidecars: files that are read anew when they
change.

Certificates are renewed every few weeks or days; a gateway that had to be restarted for it would
cut off its callers each time. Connections that are open keep the certificate that they began with.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import grpc

from penstock_server.config import ConfigError
from penstock_server.provider_settings import SidecarTls
from penstock_server.server_settings import Tls
from penstock_server.telemetry import log

T = TypeVar("T")

Stamp = Sequence[tuple[int, int, int]]


class _Renewed(Generic[T]):
    """What ``make`` makes of files, and makes anew once they have changed.

    May be asked on any thread. Files that cannot be used are told once, in the log, and what was
    made of the ones before them stays in use: half of a renewal may be there when somebody
    connects.
    """

    def __init__(self, files: Sequence[str], make: Callable[[], T]) -> None:
        self._files = [file for file in files if file]
        self._make = make
        self._lock = threading.Lock()
        self._problem = ""
        self._seen = self._stamp()
        self._current = self._checked()

    def latest(self) -> T:
        """As the files are now, or were when they could be used last. The same until they change.

        Example::

            credentials = renewed.latest()
        """
        with self._lock:
            try:
                stamp = self._stamp()
                if stamp != self._seen:
                    self._seen = stamp
                    self._current = self._checked()
                    self._problem = ""
                    log(logging.INFO, "certificates renewed", files=",".join(self._files))
            except ConfigError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    log(logging.ERROR, "the certificates cannot be renewed", why=str(error))
            return self._current

    def _stamp(self) -> Stamp:
        try:
            stats = [Path(file).stat() for file in self._files]
        except OSError as error:
            raise ConfigError(f"tls: {error.filename}: {error.strerror}") from None
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]

    def _checked(self) -> T:
        try:
            return self._make()
        except (OSError, ssl.SSLError) as error:
            said = error.strerror or str(error)
            raise ConfigError(f"tls: {', '.join(self._files)} cannot be used: {said}") from None


class Certificates:
    """The files of a `Tls` section, checked, and looked at again with each new connection.

    gRPC asks on a thread of its own.

    Example::

        credentials = Certificates(settings.tls).credentials()
    """

    def __init__(self, settings: Tls) -> None:
        self._settings = settings
        files = (settings.cert, settings.key, settings.client_ca)
        self._renewed = _Renewed(files, self._read)
        self._told = self._renewed.latest()

    def credentials(self) -> grpc.ServerCredentials:
        """What a server listens with."""
        return grpc.dynamic_ssl_server_credentials(
            self._told,
            self._changed,  # type: ignore[arg-type] # None: no change; the stubs do not know
            require_client_authentication=bool(self._settings.client_ca),
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificates, where there are any."""
        latest = self._renewed.latest()
        if latest is self._told:
            return None
        self._told = latest
        return latest

    def _read(self) -> grpc.ServerCertificateConfiguration:
        settings = self._settings
        _check(ssl.PROTOCOL_TLS_SERVER, settings.cert, settings.key, settings.client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(Path(settings.key).read_bytes(), Path(settings.cert).read_bytes())],
            root_certificates=_read(settings.client_ca),
        )


class ChannelCertificates:
    """The files of a `SidecarTls` section, checked: what new channels to sidecars are made with.

    A channel keeps its credentials for good, and makes new connections with them, too: whoever has
    one makes another where `latest` is no longer what it has.

    Example::

        certificates = ChannelCertificates(settings.tls)
        grpc.aio.secure_channel(address, certificates.latest(), options=certificates.options)
    """

    def __init__(self, settings: SidecarTls) -> None:
        self._settings = settings
        self._renewed = _Renewed((settings.ca, settings.cert, settings.key), self._read)

    def latest(self) -> grpc.ChannelCredentials:
        """The credentials; another object once the files have changed."""
        return self._renewed.latest()

    @property
    def shown(self) -> bool:
        """Whether the gateway has a certificate of its own to show."""
        return bool(self._settings.cert)

    @property
    def options(self) -> Sequence[tuple[str, str]]:
        """The channel's arguments."""
        name = self._settings.server_name
        return [("grpc.ssl_target_name_override", name)] if name else []

    def _read(self) -> grpc.ChannelCredentials:
        settings = self._settings
        _check(ssl.PROTOCOL_TLS_CLIENT, settings.cert, settings.key, settings.ca)
        return grpc.ssl_channel_credentials(
            _read(settings.ca), _read(settings.key), _read(settings.cert)
        )


def _check(protocol: ssl._SSLMethod, cert: str, key: str, ca: str) -> None:
    """gRPC itself would only fail at the first handshake, and without a word."""
    context = ssl.SSLContext(protocol)
    if cert:
        context.load_cert_chain(cert, key)
    if ca:
        context.load_verify_locations(ca)


def _read(file: str) -> bytes | None:
    return Path(file).read_bytes() if file else None
