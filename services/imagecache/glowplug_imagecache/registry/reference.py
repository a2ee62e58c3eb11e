"""Reads image references as the field does: "debian", "ghcr.io/team/app:1", "host:5000/a/b@sha256:…". Pure.

A first part with a dot, a port, or the name localhost is a registry; everything else is on Docker Hub,
whose images without a folder are in "library/". The grammar is that of the distribution project.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from glowplug_contracts.addresses import is_odd_address
from glowplug_contracts.errors import InvalidRequestError

DOCKER_HUB: Final = "docker.io"
# Older spellings of Docker Hub.
_HUB_NAMES: Final = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
REFERENCE_CHARS_MAX: Final = 512
REPOSITORY_CHARS_MAX: Final = 255

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?\Z")
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_PART}(?:/{_PART})*\Z")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST: Final = re.compile(r"(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})\Z")
_HEX_ONLY: Final = re.compile(r"[a-f0-9]{64}\Z")
PORT_MAX: Final = 65535


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Which image, and where.

    Attributes:
        host: the registry as the user knows it, with its port if it has one: "docker.io", "[::1]:5000".
        repository: the whole path: "library/debian".
        tag: "" where only a digest is given.
        digest: rules where it is given; the tag is then only for people.
    """

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def target(self) -> str:
        """Return what the registry is asked for: the digest, or else the tag."""
        return self.digest or self.tag

    @property
    def scope(self) -> str:
        """Return the right to pull it, as token services call it."""
        return f"repository:{self.repository}:pull"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"


def parse_reference(text: str) -> Reference:
    """Return what an image's name stands for.

    Raises: InvalidRequestError (registry.bad_reference) with the part that is wrong.
    """
    if len(text) > REFERENCE_CHARS_MAX:
        raise _bad(text, f"is longer than {REFERENCE_CHARS_MAX} characters")
    if "://" in text:
        raise _bad(text, "has a scheme; leave it out")
    name, _, digest = text.partition("@")
    if (digest or "@" in text) and not is_digest(digest):
        raise _bad(text, "has a digest that is not sha256:<64 hex> or sha512:<128 hex>")
    host, path = _split_host(name)
    path, _, tag = path.partition(":")
    if (tag or ":" in name.rpartition("/")[2]) and not _TAG.match(tag):
        raise _bad(text, f"has the tag {tag[:140]!r}; tags are letters, digits, '_', '.' and '-'")
    if not path or not _REPOSITORY.match(path) or len(path) > REPOSITORY_CHARS_MAX:
        raise _bad(text, "has no usable name: lower-case words, digits, '.', '_', '-' and '/'")
    name, port = _split_port(host)
    if not _HOST.match(host) or not 0 < port <= PORT_MAX or is_odd_address(name):
        raise _bad(text, f"names {host[:100]!r}, which is no host")
    if host == DOCKER_HUB and "/" not in path:
        if _HEX_ONLY.match(path):
            raise _bad(text, "is the id of an image; a registry needs its name")
        path = f"library/{path}"
    return Reference(
        host=host, repository=path, tag=tag or ("" if digest else "latest"), digest=digest
    )


def is_digest(text: str) -> bool:
    """Return whether this is the name of some bytes, by an algorithm that we can check."""
    return bool(_DIGEST.match(text))


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_host = any(c in ".:[" for c in first) or first == "localhost" or first != first.lower()
    if not slash or not is_host:
        return DOCKER_HUB, name
    host = first.lower()
    return (DOCKER_HUB if host in _HUB_NAMES else host), rest


def _split_port(host: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return host, 1
    return name, int(port) if port.isdecimal() else 0


def _bad(text: str, why: str) -> InvalidRequestError:
    return InvalidRequestError("registry.bad_reference", f"the image {text[:200]!r} {why}")
