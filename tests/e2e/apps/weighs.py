"""A function with a model, for the tests."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

from glowplug import Model, function

llama = Model("llama")
local = Model.from_dir(os.environ.get("LOCAL_WEIGHTS", "weights"), "local")


@function(models=[llama])
def reads(name):
    """Return what mapping a file shows, whether writing fails, and whether it is a mount."""
    with (
        (llama.path / name).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        digest = hashlib.sha256(mapped).hexdigest()
    try:
        (llama.path / "written").write_text("x")
    except OSError as error:
        return digest, type(error).__name__, str(llama.path) == "/models/llama"
    (llama.path / "written").unlink()
    return digest, "", str(llama.path) == "/models/llama"


@function(models={"/weights/here": local})
def reads_local():
    here = Path("/weights/here")
    root = here if here.is_dir() else local.path
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
