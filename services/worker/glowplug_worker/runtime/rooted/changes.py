"""Where the changes of a rooted container lie on disk, and what is noted beside them.

<directory>/upper/, work/    the overlay's, as the kernel keeps it
<directory>/about.json       whose ids they are, and which places were only made for mounts
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

# Its name in a container's directory.
CHANGES: Final = "changes"
ABOUT: Final = "about.json"


class About(msgspec.Struct, frozen=True):
    """Attributes: first_id: the id that was 0 inside; None = everything is the worker's own user's.

    places: paths that were made, where they lacked, for something to be mounted on.
    """

    first_id: int | None
    places: tuple[str, ...]


def begin(directory: Path, lower: Path, about: About) -> None:
    """Make the directories of an overlay over `lower`, whose root's attributes its root begins with."""
    facts = lower.stat()
    (directory / "work").mkdir(parents=True)
    upper = directory / "upper"
    upper.mkdir()
    if about.first_id is not None:
        os.chown(upper, about.first_id + facts.st_uid, about.first_id + facts.st_gid)
    upper.chmod(facts.st_mode & 0o7777)
    os.utime(upper, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (directory / ABOUT).write_bytes(msgspec.json.encode(about))


def read_about(directory: Path) -> About:
    """Return what `begin` noted. Raises: FileNotFoundError where no container ever began."""
    return msgspec.json.decode((directory / ABOUT).read_bytes(), type=About)
