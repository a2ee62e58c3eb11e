"""Hands rule sets to `nft`, in the network namespace of the calling thread."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

from glowplug_contracts.errors import UnavailableError

_TIMEOUT_S: Final = 20.0
# Where it is on distributions that keep it from ordinary users' PATH.
_SEARCHED: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin:/usr/local/bin"


def find_nft() -> str:
    """Return the program. Raises: UnavailableError when it is not installed."""
    found = shutil.which("nft", path=_SEARCHED)
    if found is None:
        raise UnavailableError("platform.unavailable", "nftables is not installed (no `nft`)")
    return found


def apply(rules: str) -> None:
    """Put rules into force, all or none. Raises: OSError with what `nft` said."""
    _run([find_nft(), "-f", "-"], rules)


def check_rights() -> None:
    """See whether we may read and so write rules at all. Raises: OSError with what `nft` said."""
    _run([find_nft(), "list", "tables"], "")


def delete_table(name: str) -> bool:
    """Remove a table; return whether there was one."""
    try:
        _run([find_nft(), "delete", "table", "inet", name], "")
    except OSError as error:
        if "No such file" in str(error):
            return False
        raise
    return True


def host_drops_forwarded() -> bool:
    """Return whether another firewall of this host drops what is forwarded: Docker's or ufw's."""
    done = subprocess.run(
        [find_nft(), "list", "chain", "ip", "filter", "FORWARD"],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    return "policy drop" in done.stdout


def _run(command: list[str], rules: str) -> None:
    try:
        done = subprocess.run(
            command, input=rules, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"nft took longer than {_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise OSError(f"nft: {done.stderr.strip()[:1000]}")
