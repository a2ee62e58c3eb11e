"""What a host may lack that a rooted container needs, as sentences. Standard library only, as `making.py` is."""

from __future__ import annotations

from typing import Final

USERS: Final = (
    "user namespaces for this user: allow them (sysctl user.max_user_namespaces; "
    "kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu), or build on another worker"
)
MAPPED: Final = (
    "mapped mounts of the filesystem that images lie on: keep the worker's data directory on ext4, XFS or "
    "Btrfs and run Linux 5.19 or later, or build on another worker"
)
OVERLAY: Final = (
    "an overlay over an image's files: load the kernel's module overlay, keep the worker's data directory on ext4, XFS "
    "or Btrfs (not on an overlay of its own, nor on NFS), or build on another worker"
)


def sentence(what: str, error: OSError) -> str:
    """Return what is lacking, and what the kernel said."""
    return f"this host lacks {what} ({error.strerror or error})"
