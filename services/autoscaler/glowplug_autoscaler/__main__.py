"""The command `glowplug-autoscaler`."""

from __future__ import annotations

from glowplug_runtime.service import run

from glowplug_autoscaler.service import open_service
from glowplug_autoscaler.settings import AutoscalerSettings


def main() -> None:
    """Run the autoscaler until SIGTERM."""
    run("autoscaler", AutoscalerSettings, open_service)


if __name__ == "__main__":
    main()
