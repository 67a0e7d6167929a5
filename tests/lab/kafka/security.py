"""TLS for the lab's brokers: a certificate authority made on the spot, thrown away with the directory it is in."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.lab.ports import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

_DAYS = "2"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
# Everything a strict client looks for (Python 3.13 verifies with X509_V_FLAG_X509_STRICT).
_AUTHORITY = """\
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_BROKER = f"""\
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:{LOOPBACK}, DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Authority:
    """A certificate authority; `certificate` is the PEM file that clients trust."""

    def __init__(self, directory: Path, name: str) -> None:
        """Make one in `directory`; raises RuntimeError where there is no OpenSSL 3."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = directory / f"{name}.key"
        self.certificate = directory / f"{name}.crt"
        _issue(directory, name, _AUTHORITY, key=self._key, certificate=self.certificate)

    def issue(self, name: str) -> str:
        """Give a key and certificate for a broker on loopback, and the chain, as one PEM text that Kafka reads."""
        key, certificate = self._directory / f"{name}.key", self._directory / f"{name}.crt"
        signed_by = ("-CA", str(self.certificate), "-CAkey", str(self._key))
        _issue(self._directory, name, _BROKER, *signed_by, key=key, certificate=certificate)
        return "".join(file.read_text() for file in (key, certificate, self.certificate))


def _issue(directory: Path, name: str, extensions: str, *options: str, key: Path, certificate: Path) -> None:
    if shutil.which("openssl") is None:
        raise RuntimeError("OpenSSL 3 is needed to make certificates for the lab's brokers, there is none (PATH)")
    config = directory / f"{name}.cnf"
    config.write_text(f"[req]\ndistinguished_name = nobody\nx509_extensions = added\n[nobody]\n[added]\n{extensions}")
    command = ["openssl", "req", "-x509", "-config", config, *_NEW_KEY, "-sha256", "-days", _DAYS]
    command += ["-subj", f"/O=sf-healer lab/CN={name}", "-keyout", key, "-out", certificate, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl made no certificate for {name}:\n{done.stderr}")
