"""Images and sources on a worker's disk, and how a build's layer becomes an image.

`open_images` gives the worker its `ImageStore`; its `client` serves `Blobs`. `kit.py` says what a build
container needs beside its layer, `host.py` who this host is. Nothing here starts a container.
"""

from __future__ import annotations

from glowplug_worker.images.host import this_host
from glowplug_worker.images.kit import BuildKit
from glowplug_worker.images.local import LocalImages, open_images
from glowplug_worker.images.opening import Mounting

__all__ = ["BuildKit", "LocalImages", "Mounting", "open_images", "this_host"]
