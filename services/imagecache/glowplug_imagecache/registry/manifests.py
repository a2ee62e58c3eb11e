"""What registries call images: indexes, manifests and configurations, of OCI and of Docker's schema 2. Pure.

Bytes come here after their digest was checked, so they are what was pushed; they are still a stranger's.
A document must not be readable as two kinds (CVE-2021-41190): its fields and its media type must agree.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec
from glowplug_contracts.errors import InvalidRequestError

from glowplug_imagecache.registry.platforms import Platform
from glowplug_imagecache.registry.reference import is_digest

MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024
CONFIG_BYTES_MAX: Final = 8 * 1024 * 1024
LAYERS_MAX: Final = 512
LAYERS_BYTES_MAX: Final = 64 * 1024 * 1024 * 1024
INDEX_ENTRIES_MAX: Final = 1024
MEDIA_TYPE_CHARS_MAX: Final = 255

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
OCI_INDEX: Final = f"{OCI}index.v1+json"
OCI_MANIFEST: Final = f"{OCI}manifest.v1+json"
DOCKER_INDEX: Final = f"{DOCKER}distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = f"{DOCKER}distribution.manifest.v2+json"
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
SCHEMA_1: Final = (
    f"{DOCKER}distribution.manifest.v1+json",
    f"{DOCKER}distribution.manifest.v1+prettyjws",
)
CONFIGS: Final = frozenset({f"{OCI}config.v1+json", f"{DOCKER}container.image.v1+json"})
ACCEPT: Final = f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_INDEX}, {DOCKER_MANIFEST}"

# Layers are told apart by their first bytes, so their media type only says that they are layers of files.
_LAYER: Final = re.compile(
    r"application/vnd\.oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?\Z"
    r"|application/vnd\.docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.gzip|\.zstd)?\Z"
)
_REFERENCE_TYPE: Final = "vnd.docker.reference.type"  # of attestations, which are no images

T = TypeVar("T")


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The name of some bytes, with what they are and how long."""

    media_type: str = ""
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    platform: Platform | None = None
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True):
    """The same image for several platforms."""

    entries: tuple[Descriptor, ...]


class Manifest(msgspec.Struct, frozen=True):
    """One image: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """How an image wants to be run."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = {}
    exposed_ports: dict[str, Any] = {}
    stop_signal: str = ""


class RootFilesystem(msgspec.Struct, frozen=True, kw_only=True):
    """The digests of the layers' tars, uncompressed."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An image's configuration, as far as it matters here."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    config: RunConfig = RunConfig()
    rootfs: RootFilesystem = RootFilesystem()

    @property
    def platform(self) -> Platform:
        """Return the platform that the image says it is for."""
        return Platform(self.os.lower(), self.architecture.lower(), self.variant.lower())

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Return the digest of each layer's tar."""
        return self.rootfs.diff_ids


class _Document(msgspec.Struct, kw_only=True, rename="camel"):
    schema_version: int = 0
    media_type: str | None = None
    manifests: tuple[Descriptor, ...] | None = None
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] | None = None
    fs_layers: Any = None


def read_manifest(data: bytes, content_type: str) -> Index | Manifest:
    """Return what a registry sent for a tag or digest.

    Raises: InvalidRequestError (registry.unsupported) saying what it is instead.
    """
    said = content_type.partition(";")[0].strip().lower()
    document = _decoded(data, _Document, "manifest")
    if document.schema_version == 1 or document.fs_layers is not None or said in SCHEMA_1:
        raise unsupported("is in Docker's schema 1, of 2015; push it again with a current tool")
    kind = document.media_type or said
    if document.media_type and said in INDEXES | MANIFESTS and said != document.media_type:
        raise unsupported(f"is sent as {said} but calls itself {document.media_type[:100]!r}")
    both = document.manifests is not None and document.layers is not None
    if document.schema_version != 2 or both:  # noqa: PLR2004 - "schema 2", of OCI as well
        raise unsupported("is neither an index nor a manifest of schema 2")
    if document.manifests is not None and kind not in MANIFESTS:
        return _index(document.manifests)
    if document.config is not None and document.layers is not None and kind not in INDEXES:
        return _manifest(document.config, document.layers)
    raise unsupported(f"is of the kind {kind[:100]!r}, which is no image")


def read_config(data: bytes, manifest: Manifest) -> ImageConfig:
    """Return an image's configuration. Raises: InvalidRequestError (registry.unsupported)."""
    config = _decoded(data, ImageConfig, "configuration")
    if config.rootfs.type != "layers" or len(config.diff_ids) != len(manifest.layers):
        raise unsupported(
            f"has {len(manifest.layers)} layers, but its configuration names {len(config.diff_ids)}"
        )
    if not all(map(is_digest, config.diff_ids)):
        raise unsupported("names a layer by a digest that is neither sha256 nor sha512")
    return config


def unsupported(what: str) -> InvalidRequestError:
    """Return the refusal of an image that has a form we can't use."""
    return InvalidRequestError("registry.unsupported", f"the image {what}")


def _index(entries: tuple[Descriptor, ...]) -> Index:
    if len(entries) > INDEX_ENTRIES_MAX:
        raise unsupported(f"has {len(entries)} entries in its index; {INDEX_ENTRIES_MAX} at most")
    images = tuple(
        entry
        for entry in entries
        if entry.media_type in INDEXES | MANIFESTS and _REFERENCE_TYPE not in entry.annotations
    )
    for entry in images:
        _check_descriptor(entry, MANIFEST_BYTES_MAX)
    return Index(images)


def _manifest(config: Descriptor, layers: tuple[Descriptor, ...]) -> Manifest:
    if config.media_type not in CONFIGS:
        raise unsupported(f"is an artifact ({config.media_type[:100]!r}), which is no image")
    if len(layers) > LAYERS_MAX:
        raise unsupported(f"has {len(layers)} layers; {LAYERS_MAX} at most")
    _check_descriptor(config, CONFIG_BYTES_MAX)
    for layer in layers:
        if not _LAYER.match(layer.media_type) or len(layer.media_type) > MEDIA_TYPE_CHARS_MAX:
            raise unsupported(
                f"has a layer of the kind {layer.media_type[:100]!r}; "
                "tar, gzip and zstd can be used, encrypted ones can't"
            )
        if layer.urls:
            raise unsupported("has a layer that lies outside the registry (a foreign layer)")
        _check_descriptor(layer, LAYERS_BYTES_MAX)
    total = sum(layer.size for layer in layers)
    if total > LAYERS_BYTES_MAX:
        raise unsupported(f"has layers of {total} bytes together; {LAYERS_BYTES_MAX} at most")
    return Manifest(config, layers)


def _check_descriptor(descriptor: Descriptor, bytes_max: int) -> None:
    if not is_digest(descriptor.digest):
        raise unsupported("names a part by a digest that is neither sha256 nor sha512")
    if not 0 <= descriptor.size <= bytes_max:
        raise unsupported(
            f"names a part of {descriptor.size} bytes ({descriptor.media_type[:100]}); "
            f"{bytes_max} at most"
        )


def _decoded(data: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), kind)
    except (msgspec.MsgspecError, RecursionError) as err:
        raise unsupported(f"has a {what} that can't be read: {str(err)[:200]}") from err


def _without_nulls(value: Any) -> Any:
    """Return a document whose nulls are left out: to Go, in which the field is written, they say nothing."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value
