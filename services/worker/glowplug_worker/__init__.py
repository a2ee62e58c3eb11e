"""The worker: runs containers on one host, and the invocations inside them.

Hears bindings from placement, invocations from the dispatcher, execs from sandbox and imagecache; says
what its containers do, what invocations ended in, and once a second everything it holds. Owns its
directory, its containers' processes and their sockets. It decides nothing about where work goes, and
believes nothing that comes from inside a container. README.md is its role card.
"""

import glowplug_runtime  # noqa: F401  before whatever imports structlog: it keeps rich out of services
