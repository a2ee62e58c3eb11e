"""An app whose import fails inside the container only."""

from __future__ import annotations

import os

from glowplug import function, is_remote

if is_remote():
    raise RuntimeError("this module can't be imported remotely")


@function(cpu=0.01, memory=64)
def never():
    return os.getpid()
