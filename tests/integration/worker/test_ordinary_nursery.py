"""Whether an ordinary user's worker can fork containers is known when it starts."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.ordinary import ROOT, UID, find_ordinary

SCRIPT = """
import asyncio
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.runtime.nursery.client import open_nursery
async def main():
    try:
        nursery = await open_nursery()
    except UnavailableError as error:
        print(error.message)
    else:
        print("ready", len(nursery.home))
        nursery.close()
asyncio.run(main())
"""
# As Docker does it: parts of /proc lie under something else.
HIDING = 'mount --bind -o ro /proc/sys /proc/sys && exec "$@"'


def test_where_the_hosts_proc_is_partly_hidden_it_says_so():
    directory = Path(tempfile.mkdtemp(prefix="glowplug-ordinary-"))
    try:
        found = find_ordinary(directory)
        if isinstance(found, str):
            pytest.skip(found)
        ordinary = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
        command = (*ordinary, str(found.python), "-c", SCRIPT)

        def run(*around: str) -> str:
            done = subprocess.run(
                [*around, *command],
                cwd=ROOT,
                env=found.env | {"PATH": f"{found.env['PATH']}:/usr/sbin:/sbin"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        if run() != "ready 2\n":
            pytest.skip("user namespaces are not to be had here")
        hidden = run("unshare", "--mount", "sh", "-c", HIDING, "sh")
        assert "can have no /proc of its own here" in hidden
    finally:
        subprocess.run(["rm", "-rf", str(directory)], check=True)
