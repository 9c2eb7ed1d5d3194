"""The certificates of a cluster: an authority, and a certificate for each member that it signs.

They are the whole authentication: a process with a certificate can run code on all members. The folder
of the coordinator has `ca.key`, `ca.pem`, `node.pem` (its own certificate and key), and for each node
the folder `nodes/NAME` with the two files that the node needs.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from imgsvc.errors import StartupError

AUTHORITY_DAYS = 3_650
MEMBER_DAYS = 825
"""How long the certificate of a member is valid. `imgsvc cluster certs --renew` makes new ones."""
COORDINATOR = "coordinator"
CLOCK_SKEW = timedelta(hours=1)
"""Certificates are valid from this time before they are made: the clocks of members differ."""


def write_certificates(folder: Path, names: list[str], *, renew: bool) -> list[Path]:
    """Write the authority and the certificates that are missing; return the folders written.

    `names` are nodes. With `renew`, replace those of the coordinator and of `names`, or of all nodes if
    `names` is empty. The authority stays. Raise `StartupError` if a name is invalid or the authority's
    key is missing.
    """
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise StartupError(
                f"{name!r} is not a name for a node. Use letters, digits, dots and hyphens."
            )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _authority(folder)
    nodes = folder / "nodes"
    if renew and not names:
        names = sorted(each.name for each in nodes.iterdir()) if nodes.exists() else []
    written = []
    for name, target in [(COORDINATOR, folder), *((name, nodes / name) for name in names)]:
        if renew or not (target / "node.pem").exists():
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(target / "ca.pem", (folder / "ca.pem").read_bytes())
            _write(target / "node.pem", _member(name, *authority))
            written.append(target)
    return written


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return the key and the certificate of the authority. Make them if the folder has none."""
    key_file, certificate_file = folder / "ca.key", folder / "ca.pem"
    if not certificate_file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("imgsvc cluster")
        builder = _builder(name, name, key, AUTHORITY_DAYS)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        certificate = builder.sign(key, hashes.SHA256())
        _write(key_file, _key_pem(key))
        _write(certificate_file, _pem(certificate))
        return key, certificate
    if not key_file.exists():
        raise StartupError(
            f"{folder} has no ca.key, which signs certificates. Run this command on the coordinator."
        )
    loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise StartupError(f"{key_file} is not a key of imgsvc. Choose another folder.")
    return loaded, x509.load_pem_x509_certificate(certificate_file.read_bytes())


def _member(
    name: str, authority_key: ec.EllipticCurvePrivateKey, authority: x509.Certificate
) -> bytes:
    """Return a new certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = (
        _builder(_name(name), authority.subject, key, MEMBER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return _pem(certificate) + _key_pem(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes) -> None:
    """Replace a file. Only its owner may read it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
