"""An app whose import pays for a template, and one that can't have one."""

import os
import time

from glowplug import endpoint

time.sleep(0.3)
IMPORTED = time.time()


@endpoint(cpu=0.1, keep_warm_seconds=0)
def imported() -> list:
    return [IMPORTED, os.getpid(), os.environ["GLOWPLUG_CONTAINER_ID"]]
