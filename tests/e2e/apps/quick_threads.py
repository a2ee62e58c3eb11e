"""An app that starts a thread when it is imported."""

import threading
import time

from glowplug import endpoint

time.sleep(0.3)
threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()


@endpoint(cpu=0.1, keep_warm_seconds=0)
def threads() -> int:
    return threading.active_count()
