"""Placement: binds every wanted container to a worker.

Journey step 5. Pure: `step(event, now)` returns what to do; the shell in `service.py` does it.
"""

from __future__ import annotations

from glowplug_scheduler.events import *  # noqa: F403
from glowplug_scheduler.place_types import *  # noqa: F403
