"""What waits for the ends of other invocations. Pure.

A record that others wait for names them (`then`); one that waits says for how many, and what their ends
must be (`after_if`). All of it stands in the records, which are kept while anybody may wait, so a new owner
of the shard counts again and comes to the same. Ends are counted in sets: told twice, they count once.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from glowplug_contracts.ids import InvocationId

from glowplug_scheduler.queues import Item, Remembered

DONE_REMEMBERED = 65_536
# Those that are waited for are written right after those that wait; by then they never will be.
INCOMPLETE_S = 600.0
# A waiter stands in the stream before those that it waits for: it has ended, or will never come.
FORGOTTEN_S = 60.0


class Verdict(Enum):
    """What becomes of one that waits."""

    WAIT = "wait"
    RUN = "run"
    FAIL = "fail"
    DROP = "drop"


class Waiting:
    """The ends that one invocation waits for, as far as they are known."""

    def __init__(self, now: float) -> None:
        self.item: Item | None = None
        self.since = now
        self.lowest: int | None = None
        self.seen: set[InvocationId] = set()
        self.succeeded: set[InvocationId] = set()
        self.failed: dict[InvocationId, None] = {}

    def verdict(self) -> Verdict:
        """Return what is to be done with it now."""
        item = self.item
        if item is None:
            return Verdict.WAIT
        all_ended = len(self.succeeded) + len(self.failed) >= item.after_count
        match item.after_if:
            case "ended":
                return Verdict.RUN if all_ended else Verdict.WAIT
            case "failed":
                if self.failed:
                    return Verdict.RUN
                return Verdict.DROP if all_ended else Verdict.WAIT
            case _:
                if self.failed:
                    return Verdict.FAIL
                return Verdict.RUN if all_ended else Verdict.WAIT


class Followups:
    """Everything of a shard that waits for ends."""

    def __init__(self) -> None:
        self._waiting: dict[InvocationId, Waiting] = {}
        self._done: Remembered[InvocationId] = Remembered(DONE_REMEMBERED)

    def wait(self, item: Item, now: float) -> Waiting:
        """An item waits; return what is known of the ends that it waits for."""
        waiting = self._of(item.invocation_id, now)
        waiting.item = item
        return waiting

    def told(
        self,
        member: InvocationId,
        waiter: InvocationId,
        now: float,
        *,
        ended: bool,
        well: bool,
        sequence: int = 0,
    ) -> Waiting | None:
        """One that `waiter` waits for is known, and perhaps has ended; None: nobody waits any more."""
        if waiter in self._done:
            return None
        waiting = self._of(waiter, now)
        waiting.seen.add(member)
        waiting.lowest = sequence if waiting.lowest is None else min(waiting.lowest, sequence)
        if ended and well:
            waiting.succeeded.add(member)
        elif ended:
            waiting.failed[member] = None
        return waiting

    def lowest(self) -> Iterable[int]:
        """Return, for each that waits, the lowest sequence at which a record that it needs may stand."""
        return [w.lowest for w in self._waiting.values() if w.lowest is not None]

    def forget(self, invocation_id: InvocationId, now: float) -> None:
        """It waits no more."""
        self._waiting.pop(invocation_id, None)
        self._done.add(invocation_id, now)

    def sweep(self, now: float) -> None:
        """Forget the ends that nobody came to wait for."""
        for name, waiting in list(self._waiting.items()):
            if waiting.item is None and now - waiting.since >= FORGOTTEN_S:
                del self._waiting[name]

    def _of(self, invocation_id: InvocationId, now: float) -> Waiting:
        waiting = self._waiting.get(invocation_id)
        if waiting is None:
            waiting = self._waiting[invocation_id] = Waiting(now)
        return waiting
