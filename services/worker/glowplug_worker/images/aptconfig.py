"""What apt is told in build containers, as the operator says it and as a container without accounts needs it. Pure."""

from __future__ import annotations

import re
from typing import Final

APT_TARGET: Final = "/glowplug/apt.conf"
# It stands between quotes in a file, so nothing that ends them gets in.
_ADDRESS: Final = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&'()*+,=%\[\]-]+\Z")


def apt_config(proxy: str, *, one_user: bool) -> str:
    """Return a configuration file.

    Args:
        proxy: what is asked for packages; "" = where the image's lists say.
        one_user: whether the container has no other user to fetch as.

    Raises: ValueError for a proxy that is no address.
    """
    lines = []
    if proxy:
        if not _ADDRESS.match(proxy):
            raise ValueError(
                f"{proxy!r} is no address of a proxy; http://cache.example:3142 is one"
            )
        lines += [f'Acquire::{kind}::Proxy "{proxy}";' for kind in ("http", "https")]
    if one_user:
        lines.append('APT::Sandbox::User "root";')
    return "".join(f"{line}\n" for line in lines)
