"""A platform for the length of one program, where the local profile's does not answer.

The package glowplug-local offers it through the entry point group `glowplug.commands`; without that
package the error says how to get it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import threading
from typing import Any

from glowplug.errors import UnavailableError

GROUP = "glowplug.commands"
MODULE = "ephemeral"
OPENER = "open_ephemeral"
STOP_S = 20.0
START_S = 60.0


class LocalPlatform:
    """A running one. Its thread lives as long as it does: its processes die with that thread."""

    def __init__(self, opener: Any) -> None:
        self.url = ""
        self.token = ""
        self._opener = opener
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._hold, name="glowplug-local", daemon=True)

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises: UnavailableError with the reason.
        """
        self._thread.start()
        if not self._ready.wait(START_S):
            raise UnavailableError(f"a local platform was not ready after {START_S:.0f} s")
        if self._failure is not None:
            raise UnavailableError(
                f"no local platform could be started: {self._failure}"
            ) from self._failure

    def stop(self) -> None:
        """Stop it and wait until nothing is left."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _hold(self) -> None:
        try:
            with self._opener() as (self.url, self.token):
                self._ready.set()
                self._stop.wait()
        except BaseException as err:  # noqa: BLE001 - a thread's end: handed to whoever started it
            self._failure = err
        finally:
            self._ready.set()


def start_local() -> LocalPlatform:
    """Start a platform for this program, and say so in one line on standard error.

    Raises: UnavailableError if none can be started here.
    """
    opener = find_opener()
    sys.stderr.write("glowplug: no platform answers; starting one for the length of this program\n")
    sys.stderr.flush()
    platform = LocalPlatform(opener)
    platform.start()
    return platform


def find_opener() -> Any:
    """Return glowplug_local's `ephemeral.open_ephemeral`.

    Raises: UnavailableError if no installed package offers one.
    """
    for entry in importlib.metadata.entry_points(group=GROUP):
        package = entry.module.split(".")[0]
        if importlib.util.find_spec(f"{package}.{MODULE}") is not None:
            return getattr(importlib.import_module(f"{package}.{MODULE}"), OPENER)
    raise UnavailableError(
        "no platform answers, and none can be started here: `pip install 'glowplug[local]'` brings "
        "one, or set GLOWPLUG_URL and GLOWPLUG_TOKEN"
    )
