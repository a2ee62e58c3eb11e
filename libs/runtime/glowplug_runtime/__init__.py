"""The shell that every service runs in: bus, life cycle, leases, settings, health, tracing.

It knows no business word: no container, no placement. `bus_nats` is the only file of the platform
that imports the NATS client.
"""

import sys

# structlog imports rich for prettier tracebacks wherever it is installed: 100 ms of every service's start.
_WITHOUT_RICH = "rich" not in sys.modules
if _WITHOUT_RICH:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402, F401

if _WITHOUT_RICH:
    del sys.modules["rich"]
