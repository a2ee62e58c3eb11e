"""Where objects are kept: a directory, or a bucket named by a URL; and the words of buckets. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*\Z")


TRIES_MAX: Final = 3
RETRY_S: Final = 15.0
# Of one request, its body included: a blob of gigabytes goes in parts.
TIMEOUT_S: Final = 30.0


class Thing(msgspec.Struct, frozen=True):
    """An object: its path, bytes, and when it was written, by the store's clock."""

    path: str
    size: int
    at: float


class Keys(msgspec.Struct, frozen=True):
    """What signs requests; empty ones: the environment's (AWS_ACCESS_KEY_ID, a role, …)."""

    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""

    def __repr__(self) -> str:
        """Say that there are some."""
        return "Keys(…)"


class BucketPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket. Attributes: endpoint: of the server; "" = Amazon's of the region."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"

    def __str__(self) -> str:
        """Return its URL, as it is told."""
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


REPLICAS: Final = "replicas"
MEMBERS_MAX: Final = 64


def check_copies(members: int, copies: int) -> None:
    """Raise ValueError for a cluster that can't be."""
    if not 1 <= members <= MEMBERS_MAX:
        raise ValueError(f"STORE_MEMBERS is 1 to {MEMBERS_MAX}")
    if not 1 <= copies <= members:
        raise ValueError("STORE_COPIES is 1 to STORE_MEMBERS")


def bucket_place(url: str, endpoint: str, region: str) -> BucketPlace | None:
    """Return the bucket that the settings name; None for "" (the data directory) and REPLICAS.

    Raises: ValueError saying what is wrong; never with what may be a secret.
    """
    if url in {"", REPLICAS}:
        if endpoint:
            raise ValueError("STORE_ENDPOINT is set, but STORE is not a bucket")
        return None
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("STORE is s3://bucket/prefix; keys go to a file, STORE_KEYS_FILE names it")
    if parts.scheme != "s3" or not _BUCKET.match(parts.netloc):
        raise ValueError("STORE is s3://bucket/prefix, replicas, or empty for the data directory")
    if prefix and (not _PREFIX.match(prefix) or {".", ".."} & set(prefix.split("/"))):
        raise ValueError("STORE's prefix has letters, digits, '.', '_', '-' and '/' only")
    server = urlsplit(endpoint)
    plain = server.scheme in {"http", "https"} and server.hostname and not server.username
    if endpoint and (not plain or server.query or server.fragment):
        raise ValueError("STORE_ENDPOINT is http(s)://host:port")
    return BucketPlace(
        bucket=parts.netloc, prefix=prefix, endpoint=endpoint.rstrip("/"), region=region
    )
