"""What people see of images: one, many, and what is different between two. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import msgspec
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest, ImageDigest
from glowplug_contracts.manifests import chunk_sizes
from glowplug_contracts.messages.image import ImageManifest, ImageRecord, ManifestEntry
from glowplug_contracts.trees import FlatTree

from glowplug_imagecache.tree_views import Hashed, differing
from glowplug_imagecache.tree_views import largest as largest_below

# Of each list in an answer. Counts and bytes are of all.
LISTED_MAX = 1000
LARGEST = 20
PREFIX_CHARS_MIN = 6


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What an image says it holds. `tree` is its base's; None without a base, or where it is gone."""

    manifest: ImageManifest
    tree: FlatTree | None = None

    @property
    def is_torn(self) -> bool:
        """Return whether the base's tree is gone, so that nobody knows what was in it."""
        return self.manifest.base is not None and self.tree is None

    def sizes(self) -> dict[Digest, int]:
        """Return every object that it needs, once, with its raw size."""
        sizes = chunk_sizes(self.manifest)
        if self.tree is not None:
            objects = (*self.tree.packs, *self.tree.pieces)
            sizes |= {Digest(one.digest.hex()): one.size for one in objects}
        return sizes


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a workspace.

    Attributes:
        state: "ready", "hurt" (objects are missing) or "gone" (the manifest is).
        used_at: when somebody last fetched or built it; ahead: leased until then.
        used_by: what of the workspace needs it now; eviction leaves it alone.
    """

    image_digest: ImageDigest
    state: str
    python_version: str
    host: str
    steps: tuple[str, ...]
    files: int
    bytes_total: int
    built_at: float
    used_at: float
    used_by: tuple[str, ...]


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A path of an image and its bytes. What begins with "/" is the base's, the rest lies in the layer."""

    path: str
    bytes: int


class ImageDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One image, looked into.

    Attributes:
        base: the image of a registry that it stands on, with the digest that was pulled; "" = the host.
        distinct_bytes: of its content, each piece once; `stored_bytes` is that, compressed.
        own_bytes: the stored part of it that no other image of the workspace has.
        missing: objects that the store lacks; a base's tree that is gone counts as one.
    """

    image: ImageView
    base: str
    platform: str
    env: dict[str, str]
    distinct_bytes: int
    stored_bytes: int
    own_bytes: int
    missing: int
    largest: tuple[Size, ...]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A path that is not the same in both. `how` is "added", "removed" or "changed"."""

    path: str
    how: str
    before: int
    after: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """From one image to another. Bytes are of distinct content, not compressed."""

    before: ImageDigest
    after: ImageDigest
    added: int
    removed: int
    changed: int
    bytes_shared: int
    bytes_removed: int
    bytes_added: int
    settings: dict[str, tuple[str, str]]
    changes: tuple[Change, ...]


def find_record(records: Iterable[ImageRecord], reference: str) -> ImageRecord:
    """Return the image that a digest, or its beginning, names among a workspace's.

    Raises: NotFoundError, InvalidRequestError (too short, or of more than one).
    """
    if len(reference) < PREFIX_CHARS_MIN:
        raise InvalidRequestError(
            "request.invalid", f"give {PREFIX_CHARS_MIN} or more characters of the image's digest"
        )
    found = [record for record in records if record.image_digest.startswith(reference)]
    if not found:
        raise NotFoundError(
            "image.not_found",
            f"no image {reference[:64]!r} is kept; `glowplug image list` shows those that are",
        )
    if len(found) > 1:
        raise InvalidRequestError(
            "request.invalid", f"{len(found)} images begin with {reference[:64]!r}; give more of it"
        )
    return found[0]


def view(
    record: ImageRecord, *, used_at: float | None, used_by: Sequence[str], hurt: bool
) -> ImageView:
    """Return an image as people see it. `used_at` is None where the manifest is gone."""
    state = "gone" if used_at is None else "hurt" if hurt else "ready"
    return ImageView(
        image_digest=record.image_digest,
        state=state,
        python_version=record.python_version,
        host=record.host,
        steps=record.steps,
        files=record.files,
        bytes_total=record.bytes_total,
        built_at=record.built_at,
        used_at=used_at or 0.0,
        used_by=tuple(dict.fromkeys(used_by)),
    )


def detail(
    image: ImageView,
    contents: Contents,
    stored: Mapping[Digest, int],
    elsewhere: Container[Digest],
) -> ImageDetail:
    """Look into an image.

    Args:
        stored: has the objects that are there, with their compressed bytes.
        elsewhere: has those that other images of the workspace need, too.
    """
    manifest, sizes = contents.manifest, contents.sizes()
    files = [(entry.path, entry.size) for entry in manifest.entries if entry.kind == "file"]
    if contents.tree is not None:
        files += largest_below(contents.tree, LARGEST)
    files.sort(key=lambda file: (-file[1], file[0]))
    base = manifest.base
    return ImageDetail(
        image=image,
        base=base.reference if base is not None else "",
        platform=base.platform if base is not None else "",
        env=(base.env if base is not None else {}) | manifest.env,
        distinct_bytes=sum(sizes.values()),
        stored_bytes=sum(stored.get(digest, 0) for digest in sizes),
        own_bytes=sum(stored.get(digest, 0) for digest in sizes if digest not in elsewhere),
        missing=sum(digest not in stored for digest in sizes) + contents.is_torn,
        largest=tuple(Size(path=path, bytes=size) for path, size in files[:LARGEST]),
    )


def compare(
    before_digest: ImageDigest,
    before: Contents,
    after_digest: ImageDigest,
    after: Contents,
    hashed: Hashed,
) -> Difference:
    """Return what is different: first in the bases, then in the layers, paths in order.

    `hashed` is asked about small files of the bases that lie in different packs.
    """
    old = {entry.path: entry for entry in before.manifest.entries}
    new = {entry.path: entry for entry in after.manifest.entries}
    changes = [_change(path, old.get(path), new.get(path)) for path in sorted({*old, *new})]
    found = [*_below(before, after, hashed), *(change for change in changes if change is not None)]
    counts = {how: sum(one.how == how for one in found) for how in ("added", "removed", "changed")}
    old_sizes, new_sizes = before.sizes(), after.sizes()
    return Difference(
        before=before_digest,
        after=after_digest,
        added=counts["added"],
        removed=counts["removed"],
        changed=counts["changed"],
        bytes_shared=sum(size for digest, size in old_sizes.items() if digest in new_sizes),
        bytes_removed=sum(size for digest, size in old_sizes.items() if digest not in new_sizes),
        bytes_added=sum(size for digest, size in new_sizes.items() if digest not in old_sizes),
        settings=_settings(before.manifest, after.manifest),
        changes=tuple(found[:LISTED_MAX]),
    )


def _below(before: Contents, after: Contents, hashed: Hashed) -> Iterator[Change]:
    """Yield what is different in the bases; nothing where one of them is gone."""
    old, new = before.manifest.base, after.manifest.base
    same = old is not None and new is not None and old.tree == new.tree
    if same or before.is_torn or after.is_torn:
        return
    for one in differing(before.tree, after.tree, hashed):
        how = "added" if one.before is None else "removed" if one.after is None else "changed"
        yield Change(path=one.path, how=how, before=one.before or 0, after=one.after or 0)


def _change(path: str, old: ManifestEntry | None, new: ManifestEntry | None) -> Change | None:
    if old == new:
        return None
    how = "added" if old is None else "removed" if new is None else "changed"
    return Change(
        path=path,
        how=how,
        before=old.size if old is not None else 0,
        after=new.size if new is not None else 0,
    )


def _settings(before: ImageManifest, after: ImageManifest) -> dict[str, tuple[str, str]]:
    old, new = _settings_of(before), _settings_of(after)
    pairs = {name: (old.get(name, ""), new.get(name, "")) for name in sorted({*old, *new})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _settings_of(manifest: ImageManifest) -> dict[str, str]:
    base = manifest.base
    found = {"python": manifest.python_version, "host": manifest.host}
    if base is not None:
        found |= {"base": base.reference, "path": base.path, "cwd": base.cwd}
    env = (base.env if base is not None else {}) | manifest.env
    return found | {f"env {name}": value for name, value in env.items()}
