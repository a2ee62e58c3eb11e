"""Why a service can't start: said in one line on standard error, and the process ends with 1."""

from __future__ import annotations


class StartError(Exception):
    """Base; the message says what to do."""


class BrokerTooOldError(StartError):
    """The server lacks what the platform needs; the message says which version has it."""


class BrokerRefusedError(StartError):
    """The server does not let us in."""


class PortTakenError(StartError):
    """The port is somebody else's; the message names it."""
