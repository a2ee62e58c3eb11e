"""A door's certificate: version 1.2 at least, taken anew when it changes, refused with a sentence."""

from __future__ import annotations

import ssl
import warnings

import pytest
from glowplug_runtime.failures import StartError
from glowplug_runtime.tls import open_certificate

from tests.support.certificates import a_certificate


def shakes_hands(server: ssl.SSLContext, version: ssl.TLSVersion) -> str:
    """Return the version that a client of just this version gets, or "" if they don't agree."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are what this is about
        client.minimum_version = client.maximum_version = version
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return ""
    return ends[0].version() or ""


def test_no_version_before_1_2_is_spoken(tmp_path):
    cert, key = a_certificate(tmp_path)
    found = open_certificate(str(cert), str(key))
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lax.load_cert_chain(cert, key)
    lax.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lax.minimum_version = ssl.TLSVersion.TLSv1
    old = ssl.TLSVersion.TLSv1_1
    assert shakes_hands(lax, old) == "TLSv1.1", "the control: this client can"
    found.context.set_ciphers("ALL:@SECLEVEL=0")  # so that only the version is in the way
    assert shakes_hands(found.context, old) == ""
    assert shakes_hands(found.context, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert shakes_hands(found.context, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(tmp_path):
    cert, key = a_certificate(tmp_path)
    found = open_certificate(str(cert), str(key))
    assert not found.look()
    former = found.pem
    cert.write_text("no certificate")
    assert not found.look()
    assert found.pem == former
    a_certificate(tmp_path)
    assert found.look()
    assert found.pem == (key.read_bytes(), cert.read_bytes()) != former


def test_what_can_not_be_used_is_said_at_the_start(tmp_path):
    cert, key = a_certificate(tmp_path / "a")
    _, other = a_certificate(tmp_path / "b")
    assert open_certificate("", "") is None
    with pytest.raises(StartError, match="needs both"):
        open_certificate(str(cert), "")
    with pytest.raises(StartError, match="no certificate and its key"):
        open_certificate(str(cert), str(other))
    with pytest.raises(StartError, match="can't be read"):
        open_certificate(str(cert), str(tmp_path / "none"))
    key.chmod(0o644)
    with pytest.raises(StartError, match="open to everybody"):
        open_certificate(str(cert), str(key))
