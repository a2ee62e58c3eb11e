"""TLS at a door: one certificate and its key, version 1.2 or later, read anew when the files change.

A certificate that was renewed serves the next connection; one that can't be read leaves the former in place
and is told of in the log. The key is refused where every user of the machine may read it.
"""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Final

import structlog

from glowplug_runtime.failures import StartError

log = structlog.get_logger(__name__)

# How often the files are looked at.
LOOK_S: Final = 30.0
_OTHERS: Final = 0o007


class ServerCertificate:
    """See the module. Raises: StartError where the files are no certificate and its key."""

    def __init__(self, cert_file: str, key_file: str) -> None:
        self._cert = Path(cert_file)
        self._key = Path(key_file)
        self._seen = self._stamp()
        self._load(_context())  # what is wrong with the files is said before anybody relies on them
        self.context = _context()
        self._load(self.context)
        self.pem = self._read()

    def look(self) -> bool:
        """Take the files if they have changed; return whether new ones are in use."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            self._load(_context())
            self._load(self.context)
            self.pem = self._read()
        except StartError as error:
            log.warning("tls.certificate_refused", reason=str(error))
            return False
        self._seen = stamp
        log.info("tls.certificate_renewed", file=str(self._cert))
        return True

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as err:
            raise StartError(
                f"{self._cert} and {self._key} are no certificate and its key (PEM, without a password): "
                f"{err}"
            ) from err

    def _stamp(self) -> tuple[int, ...]:
        try:
            cert, key = self._cert.stat(), self._key.stat()
        except OSError as err:
            raise StartError(f"the certificate or its key can't be read: {err}") from err
        if stat.S_IMODE(key.st_mode) & _OTHERS:
            raise StartError(
                f"the key {self._key} is open to everybody (mode {stat.S_IMODE(key.st_mode):o}): chmod 600 it"
            )
        return cert.st_mtime_ns, cert.st_ino, key.st_mtime_ns, key.st_ino

    def _read(self) -> tuple[bytes, bytes]:
        try:
            return self._key.read_bytes(), self._cert.read_bytes()
        except OSError as err:
            raise StartError(f"the certificate or its key can't be read: {err}") from err


def open_certificate(cert_file: str, key_file: str) -> ServerCertificate | None:
    """Return the certificate that the settings name, None where they name none. Raises: StartError."""
    if not cert_file and not key_file:
        return None
    if not cert_file or not key_file:
        raise StartError("TLS needs both, the certificate's file and the key's")
    return ServerCertificate(cert_file, key_file)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    raise ValueError("the key needs a password")
