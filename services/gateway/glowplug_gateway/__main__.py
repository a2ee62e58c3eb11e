"""`glowplug-gateway`: run the gateway until SIGTERM."""

from __future__ import annotations

from glowplug_runtime.service import run

from glowplug_gateway.service import open_gateway
from glowplug_gateway.settings import GatewaySettings


def main() -> None:
    """Run the service."""
    run("gateway", GatewaySettings, open_gateway)


if __name__ == "__main__":
    main()
