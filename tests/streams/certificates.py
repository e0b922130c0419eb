"""Certificates of a CA of the test's own, in the forms that Kafka and we want."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key as files; `both` has them in one, which is Kafka's PEM key store."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """A CA with its certificate in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._ca = trustme.CA()
        self.path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def issue(self, name: str, *hosts: str, passphrase: bytes | None = None) -> Issued:
        """A certificate for these hosts; the key in PKCS #8, the one form that Kafka reads."""
        issued = self._ca.issue_cert(*hosts)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        encryption: KeySerializationEncryption = (
            BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        files = Issued(*(self.folder / f"{name}.{kind}.pem" for kind in ("cert", "key", "both")))
        for path, content in ((files.cert, chain), (files.key, pem), (files.both, pem + chain)):
            path.write_bytes(content)
        return files
