"""Where a registry is asked: its mirrors in order, then itself; and which redirects are followed. Pure.

Credentials belong to one origin (scheme, host and port). They are never sent to another, nor in the
open where the registry itself was asked over TLS.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec
from glowplug_contracts.addresses import Network, is_odd_address, may_reach, parse_networks
from glowplug_contracts.errors import ForbiddenError, UnavailableError

from glowplug_imagecache.registry.reference import (
    DOCKER_HUB,
    Reference,
)

URL_CHARS_MAX: Final = 8 * 1024
# Docker Hub's registry is not where its name points.
_HUB_URL: Final = "https://registry-1.docker.io"
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+\Z")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Origin = tuple[str, str, int]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One server that may have the image.

    Attributes:
        url: scheme, host, port, and for a mirror perhaps a path; no slash at its end.
        host: what its credentials are filed under.
        namespace: the registry that it mirrors; "" for the registry itself.
    """

    url: str
    host: str
    namespace: str = ""

    def url_of(self, reference: Reference, kind: str, name: str) -> str:
        """Return the URL of a manifest or blob."""
        mirrored = f"?ns={self.namespace}" if self.namespace else ""
        return f"{self.url}/v2/{reference.repository}/{kind}/{name}{mirrored}"


class Registries(msgspec.Struct, frozen=True, kw_only=True):
    """What operators say about registries.

    Attributes:
        mirrors: by registry, the base URLs of servers that are asked before it, in order.
        plain: registries ("host:port") that speak HTTP without TLS; localhost ones do anyway.
        networks: addresses that are not public and may be asked all the same.
    """

    mirrors: Mapping[str, Sequence[str]] = {}
    plain: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    def endpoints(self, host: str) -> list[Endpoint]:
        """Return who may have the images of a registry, in the order to ask."""
        mirrors = [
            Endpoint(url=url.rstrip("/"), host=urlsplit(url).netloc.lower(), namespace=host)
            for url in self.mirrors.get(host, ())
        ]
        scheme = "http" if host in self.plain or _is_localhost(host) else "https"
        url = _HUB_URL if host == DOCKER_HUB else f"{scheme}://{host}"
        return [*mirrors, Endpoint(url=url, host=host)]


def origin_of(url: str) -> Origin:
    """Return whom a URL speaks to. Raises: UnavailableError for what is no HTTP URL."""
    parts = _split(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


def follow(url: str, location: str) -> str:
    """Return where a redirect leads. Raises: UnavailableError where it must not be followed."""
    if len(location) > URL_CHARS_MAX:
        raise _astray(url, f"a URL of {len(location)} characters")
    try:
        target = urljoin(url, location)
    except ValueError:
        raise _astray(url, "no URL") from None
    if origin_of(url)[0] == "https" and origin_of(target)[0] != "https":
        raise _astray(url, "a URL without TLS")
    return target


def check_realm(url: str, realm: str) -> str:
    """Return the token service that a registry names, if it may be told credentials.

    Raises: UnavailableError where it may not.
    """
    return follow(url, realm)


def check_address(url: str, networks: Sequence[Network]) -> None:
    """Raise ForbiddenError (registry.forbidden) for a URL whose host is a closed address as it stands."""
    host = origin_of(url)[1]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return  # a name: checked when it is resolved
    if not may_reach(address, networks):
        raise forbidden(host)


def forbidden(host: str) -> ForbiddenError:
    """Return the refusal of a host that stands for no address that may be reached."""
    return ForbiddenError(
        "registry.forbidden",
        f"{host} is no public address; the operator's registry networks may allow it",
    )


def parse_registries(mirrors: str, plain: str, networks: str) -> Registries:
    """Return what operators write in settings.

    Args:
        mirrors: "docker.io=https://mirror.example, docker.io=http://10.0.0.1:5000", in the order to ask.
        plain: "old.example:80, other:5000".
        networks: "10.1.0.0/16, fd00::/8".

    Raises: ValueError with the part that is wrong.
    """
    by_host: dict[str, list[str]] = {}
    for one in _listed(mirrors):
        host, equals, url = one.partition("=")
        if not equals or not host:
            raise ValueError(
                f"{one[:200]!r} is no mirror; write it like docker.io=https://mirror.example"
            )
        try:
            parts = _split(url)
        except UnavailableError:
            raise ValueError(
                f"{url[:200]!r}, a mirror of {host}, is no http or https URL"
            ) from None
        if parts.query or parts.fragment:
            raise ValueError(f"{url[:200]!r}, a mirror of {host}, must end with its path")
        by_host.setdefault(host, []).append(url)
    return Registries(
        mirrors=by_host, plain=frozenset(_listed(plain)), networks=parse_networks(networks)
    )


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _split(url: str) -> SplitResult:
    if not _PRINTABLE.match(url):
        raise _astray(url, "a URL with blanks or signs that are not encoded")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        raise _astray(url, "no URL") from None
    if not fine or parts.username is not None or parts.password is not None:
        raise _astray(url, "no plain http or https URL")
    if is_odd_address(parts.hostname or ""):
        raise _astray(url, "an address that is not written out")
    return parts


def _astray(url: str, where: str) -> UnavailableError:
    return UnavailableError(
        "registry.unavailable", f"{shown_url(url)} leads to {where}, which is not followed"
    )


def shown_url(url: str) -> str:
    """Return a URL without its query and user, either of which may hold a secret."""
    return url.partition("?")[0].rpartition("@")[2][:200]


def _is_localhost(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
