"""The sandbox service's settings."""

from __future__ import annotations

from glowplug_runtime.settings import Settings


class SandboxSettings(Settings, frozen=True, kw_only=True):
    """Settings of the sandbox service; environment prefix GLOWPLUG_SANDBOX_.

    Attributes:
        start_s: seconds a creation may wait for its container, parking included; less than the 120 s
            that a gateway waits for the answer, so that the reasons still reach the caller. Shorter
            fails callers while a worker would still have come.
        creates_max: creations one replica waits for at once; more are refused.
    """

    start_s: float = 110.0
    creates_max: int = 1000
