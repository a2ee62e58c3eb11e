"""The dispatcher of one shard: hands invocations to free slots.

Journey step 3. Pure: `step(event, now)` returns what to do; the shell in `service.py` does it.
"""

from __future__ import annotations

from glowplug_scheduler.dispatch_types import *  # noqa: F403
from glowplug_scheduler.events import *  # noqa: F403
