"""EROFS images from flattened manifests: the writer, in pure Python.

`build_image` takes a checked tree and returns the bytes of a metadata image and where each object lies on
the two data devices beside it: device 1 holds the packs of small files, device 2 the pieces of larger
ones. The same tree gives the same bytes. Whoever mounts them (mount(2), `device=` twice) needs the whole
metadata image first; the devices are sparse files that may be filled later. What stands on the disk is
described in docs/erofs.md and, as bytes, in `disk.py`.
"""

from __future__ import annotations

from glowplug_worker.images.erofs.devices import Device, place_objects
from glowplug_worker.images.erofs.image import ErofsImage, build_image

__all__ = ["Device", "ErofsImage", "build_image", "place_objects"]
