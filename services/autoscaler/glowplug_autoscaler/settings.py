"""The autoscaler's settings: only the common ones. What it decides by is said per deployment."""

from __future__ import annotations

from glowplug_runtime.settings import Settings


class AutoscalerSettings(Settings, frozen=True, kw_only=True):
    """Settings of the autoscaler; environment prefix GLOWPLUG_AUTOSCALER_."""
