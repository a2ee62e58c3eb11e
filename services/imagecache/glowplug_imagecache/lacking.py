"""Which images lack something, by what a scrub found. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from glowplug_contracts.ids import Digest

from glowplug_imagecache.scrub import Hurt
from glowplug_imagecache.stock import Named

BLOBS = "blobs"


def lost_of(corrupt: Iterable[str]) -> set[Digest]:
    """Return the manifests among paths that were taken away."""
    return {Digest(name.rpartition("/")[2]) for name in corrupt if name.startswith(f"{BLOBS}/")}


def hurt_of(
    manifests: Mapping[Digest, Named], there: AbstractSet[bytes], lost: Iterable[Digest]
) -> tuple[Hurt, ...]:
    """Return every image that lacks something.

    Args:
        manifests: of images and trees.
        there: raw digests of the objects that are kept.
        lost: manifests that were taken away and are not back.
    """
    missing = {digest: len(named.objects - there) for digest, named in manifests.items()}
    bases = {named.base for named in manifests.values() if named.base is not None}
    hurt: list[Hurt] = []
    for digest, named in manifests.items():
        if named.is_tree:
            continue
        # A base's tree that is gone counts as one thing that is missing: nobody knows what it named.
        below = 0 if named.base is None else missing.get(named.base, 1)
        if missing[digest] + below:
            hurt.append(Hurt(digest=digest, missing=missing[digest] + below))
    hurt += [Hurt(digest=digest, missing=0) for digest in sorted(set(lost) - bases)]
    return tuple(hurt)
