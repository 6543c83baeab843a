"""Certificates made on the spot: an authority, and what it signs."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


class Authority:
    """Signs certificates, and writes them and itself below ``directory``.

    Example::

        authority = Authority(tmp_path / "ca")
        tls = {**authority.sign("server"), "client_ca": authority.ca}
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA {directory.name}")])
        basic = x509.BasicConstraints(ca=True, path_length=None)
        itself = _builder(self._name, self._name, self._key.public_key(), days=1)
        signed = itself.add_extension(basic, critical=True).sign(self._key, hashes.SHA256())
        self.ca = str(directory / "ca.pem")
        (directory / "ca.pem").write_bytes(signed.public_bytes(_PEM))

    def sign(self, name: str, *, days: float = 1) -> Mapping[str, str]:
        """A certificate for ``name`` at 127.0.0.1, with its key: the paths of both.

        It ends in so many days; negative: it has ended. Files of that name are replaced, as those
        who renew certificates do.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        builder = _builder(subject, self._name, key.public_key(), days)
        signed = builder.add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        paths: dict[str, str] = {}
        for what, content in (("cert", signed.public_bytes(_PEM)), ("key", private)):
            path = self._directory / f"{name}.{what}.pem"
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)
            paths[what] = str(path)
        return paths


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
    )
