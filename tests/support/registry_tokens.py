"""Tokens that a real registry believes: signed by a key whose certificate it was given."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

ISSUER, SERVICE = "glowplug's tests", "the registry"
LASTS_S = 600


def token_auth(realm: str, certificate: Path) -> dict[str, dict[str, str]]:
    """Return how a registry is told to believe them."""
    return {
        "token": {
            "realm": realm,
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(certificate),
        }
    }


def signed_token(certificate: Path, key_file: Path, scope: str) -> str:
    """Return a token for a scope like "repository:a/b:pull"."""
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    der = loaded.public_bytes(serialization.Encoding.DER)
    kind, name, actions = scope.split(":")
    now = int(time.time())
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
    claims = {
        "iss": ISSUER,
        "sub": "somebody",
        "aud": SERVICE,
        "iat": now,
        "nbf": now - 5,
        "exp": now + LASTS_S,
        "jti": str(time.time_ns()),
        "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
    }
    signed = f"{_part(json.dumps(header).encode())}.{_part(json.dumps(claims).encode())}"
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
