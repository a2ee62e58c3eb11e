"""Whether this worker takes new containers: what an operator told it by `glowplug worker cordon` and `drain`.

A cordon is a file in the worker's directory, so it holds over restarts until `uncordon`. A drain is a cordon
and the end of what is here: functions are asked to end at once and finish what runs within the grace;
sandboxes and builds, which never look finished, have the whole of it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol

from glowplug_contracts.messages.container import BindContainer, ContainerKind
from glowplug_contracts.messages.worker import WorkerOrder, WorkerOrdered

CORDON_FILE: Final = "cordoned"
GRACE_S_MAX: Final = 86_400.0
REASON: Final = "worker_draining"


class Stoppable(Protocol):
    """A container, as far as its end is concerned."""

    binding: BindContainer

    def stop(self, grace_s: float, reason: str) -> None:
        """End it, after what runs has had `grace_s`."""


class Duty:
    """See the module. `now` is monotonic seconds."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / CORDON_FILE
        self.cordoned = self._file.exists()
        self._ends_at: float | None = None

    def take(
        self, order: WorkerOrder, containers: Collection[Stoppable], now: float
    ) -> WorkerOrdered:
        """Do what an operator said; what is unknown is answered, not done."""
        match order.order:
            case "cordon":
                self._cordon()
            case "uncordon":
                self._file.unlink(missing_ok=True)
                self.cordoned, self._ends_at = False, None
            case "drain":
                self._cordon()
                grace_s = min(max(0.0, order.grace_s), GRACE_S_MAX)
                self._ends_at = now + grace_s
                for each in containers:
                    if each.binding.spec.kind is ContainerKind.FUNCTION:
                        each.stop(grace_s, REASON)
            case other:
                why_not = f"this worker knows no order {other[:32]!r}"
                return WorkerOrdered(cordoned=self.cordoned, why_not=why_not)
        return WorkerOrdered(cordoned=self.cordoned, containers=len(containers))

    def tick(self, containers: Collection[Stoppable], now: float) -> None:
        """End what is still here when a drain's grace is over."""
        if self._ends_at is not None and now >= self._ends_at:
            self._ends_at = None
            for each in containers:
                each.stop(0.0, REASON)

    def _cordon(self) -> None:
        self._file.touch(mode=0o600)
        self.cordoned = True
