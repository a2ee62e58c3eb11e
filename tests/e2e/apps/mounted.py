"""Functions with a volume."""

from __future__ import annotations

import os

from glowplug import Volume, function

LIGHT = {"cpu": 0.01, "memory": 64, "keep_warm_seconds": 5}
SHARED = Volume("shared", "/data/shared")
READ = Volume("shared", "/data/read", read_only=True)


@function(**LIGHT, volumes=[SHARED])
def writes(name, text):
    folder = SHARED.path / "made"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return str(folder)


@function(**LIGHT, volumes=[SHARED])
def changes(name, text):
    path = SHARED.path / "made" / name
    path.write_text(path.read_text() + text)
    (SHARED.path / "made" / "another").write_text("")
    return path.read_text()


@function(**LIGHT, volumes=[READ])
def reads(name):
    try:
        (READ.path / "made" / "new").write_text("")
        error = ""
    except OSError as err:
        error = type(err).__name__
    return (READ.path / "made" / name).read_text(), error, os.path.ismount("/data/read")


@function(**LIGHT, volumes=[SHARED])
def leaves_a_link():
    link = SHARED.path / "link"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    return link.is_symlink()
