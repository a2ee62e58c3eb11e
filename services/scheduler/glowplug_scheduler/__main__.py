"""The command `glowplug-scheduler`."""

from __future__ import annotations

from glowplug_runtime.service import run

from glowplug_scheduler.service import open_service
from glowplug_scheduler.settings import SchedulerSettings


def main() -> None:
    """Run the scheduler until SIGTERM."""
    run("scheduler", SchedulerSettings, open_service)


if __name__ == "__main__":
    main()
