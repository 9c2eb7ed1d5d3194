"""Which addresses and certificates a cluster uses."""

from __future__ import annotations

import ssl
from pathlib import Path

from distributed.security import Security

from imgsvc.errors import StartupError


def load_security(folder: Path) -> Security:
    """Return mutual TLS with the certificates of a folder. Raise `StartupError` if they are invalid."""
    authority, member = folder / "ca.pem", folder / "node.pem"
    try:
        ssl.create_default_context(cafile=authority).load_cert_chain(member)
    except (OSError, ssl.SSLError) as error:
        raise StartupError(
            f"cluster.certificates: cannot use ca.pem and node.pem in {folder}: {error}. Make them "
            "with `imgsvc cluster certs` on the coordinator, and copy the folder of the node to it."
        ) from None
    files = {
        f"tls_{role}_{kind}": str(member)
        for role in ("scheduler", "worker", "client")
        for kind in ("cert", "key")
    }
    return Security(tls_ca_file=str(authority), require_encryption=True, **files)


def security_for(address: str, folder: Path) -> Security:
    """Return the security of an address: none for `tcp://`, which is for loopback only."""
    return load_security(folder) if address.startswith("tls://") else Security()
