"""The server's certificates: from files, which are read anew when they change.

Certificates are renewed every few weeks or days; a gateway that had to be restarted for it would
cut off its callers each time. Connections that are open keep the certificate that they began with.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc

from penstock_server.config import ConfigError, Tls
from penstock_server.telemetry import log

Stamp = Sequence[tuple[int, int, int]]


class Certificates:
    """The files of a `Tls` section, checked, and looked at again with each new connection.

    gRPC asks on a thread of its own. Files that cannot be used are told once, in the log, and the
    ones before them stay in use: half of a renewal may be there when somebody connects.

    Example::

        credentials = Certificates(settings.tls).credentials()
    """

    def __init__(self, settings: Tls) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._seen: Stamp = self._stamp()
        self._current = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """What a server listens with."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._changed,  # type: ignore[arg-type] # None: no change; the stubs do not know
            require_client_authentication=bool(self._settings.client_ca),
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificates, where there are any."""
        with self._lock:
            try:
                stamp = self._stamp()
                if stamp == self._seen:
                    return None
                self._seen = stamp
                self._current = self._read()
            except ConfigError as error:
                log(logging.ERROR, "the certificates cannot be renewed", why=str(error))
                return None
            log(logging.INFO, "certificates renewed", cert=self._settings.cert)
            return self._current

    def _files(self) -> Sequence[str]:
        settings = self._settings
        return [file for file in (settings.cert, settings.key, settings.client_ca) if file]

    def _stamp(self) -> Stamp:
        try:
            stats = [Path(file).stat() for file in self._files()]
        except OSError as error:
            raise ConfigError(f"tls: {error.filename}: {error.strerror}") from None
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]

    def _read(self) -> grpc.ServerCertificateConfiguration:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:  # gRPC itself would only fail at the first handshake, and without a word
            context.load_cert_chain(settings.cert, settings.key)
            if settings.client_ca:
                context.load_verify_locations(settings.client_ca)
            texts = [Path(file).read_bytes() for file in self._files()]
        except (OSError, ssl.SSLError) as error:
            said = error.strerror or str(error)
            raise ConfigError(f"tls: {', '.join(self._files())} cannot be used: {said}") from None
        cert, key, *client_ca = texts
        return grpc.ssl_server_certificate_configuration(
            [(key, cert)], root_certificates=client_ca[0] if client_ca else None
        )
