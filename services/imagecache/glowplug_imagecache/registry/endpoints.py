"""Where a registry is asked: its mirrors in order, then itself; and which redirects are followed. Pure.

Credentials belong to one origin (scheme, host and port). They are never sent to another, nor in the
open where the registry itself was asked over TLS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec
from glowplug_contracts.addresses import Network, may_reach
from glowplug_contracts.errors import ForbiddenError, InvalidRequestError, UnavailableError

from glowplug_imagecache.registry.reference import DOCKER_HUB, Reference

URL_CHARS_MAX: Final = 8 * 1024
# Docker Hub's registry is not where its name points.
_HUB_URL: Final = "https://registry-1.docker.io"
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


def check_mirrors(mirrors: Mapping[str, Sequence[str]]) -> None:
    """Raise InvalidRequestError (request.invalid) for an operator's mirror that is no base URL."""
    for host, urls in mirrors.items():
        for url in urls:
            try:
                parts = _split(url)
            except UnavailableError as err:
                raise InvalidRequestError("request.invalid", f"mirror of {host}: {err}") from err
            if parts.query or parts.fragment:
                raise InvalidRequestError(
                    "request.invalid", f"mirror of {host}: {url!r} must end with its path"
                )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        raise _astray(url, "no URL") from None
    if not fine or parts.username is not None or parts.password is not None:
        raise _astray(url, "no plain http or https URL")
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
