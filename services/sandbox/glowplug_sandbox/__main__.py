"""The command `glowplug-sandbox`."""

from __future__ import annotations

from glowplug_runtime.service import run

from glowplug_sandbox.service import open_service
from glowplug_sandbox.settings import SandboxSettings


def main() -> None:
    """Run the sandbox service until SIGTERM."""
    run("sandbox", SandboxSettings, open_service)


if __name__ == "__main__":
    main()
