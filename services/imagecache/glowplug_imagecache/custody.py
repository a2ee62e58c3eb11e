"""Who looks after a store, and with what: a directory's or a bucket's hands and eyes."""

from __future__ import annotations

from typing import Any

from glowplug_runtime.service import Shell

from glowplug_imagecache.evicting import Evictor
from glowplug_imagecache.scrubbing import Scrubber
from glowplug_imagecache.shared_evicting import SharedEvictor
from glowplug_imagecache.shared_scrubbing import SharedScrubber
from glowplug_imagecache.shared_store import SharedStore
from glowplug_imagecache.sole import Sole, SoleOfDirectory, SoleOfPlatform
from glowplug_imagecache.store import Store


def hands_of(store: Store) -> Evictor | SharedEvictor:
    """Return what evicts."""
    return SharedEvictor(store) if isinstance(store, SharedStore) else Evictor(store)


def eyes_of(store: Store) -> Scrubber | SharedScrubber:
    """Return what scrubs."""
    return SharedScrubber(store) if isinstance(store, SharedStore) else Scrubber(store)


def sole_of(shell: Shell[Any], store: Store, what: str) -> Sole:
    """Return the right to do something alone: `what` is the name of a lock's file."""
    if isinstance(store, SharedStore):
        return SoleOfPlatform(shell, f"imagecache-{what.removesuffix('.lock')}")
    return SoleOfDirectory(store.root / what)
