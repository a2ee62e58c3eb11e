"""The chain of outcomes of an interactive invocation, as one worker sees it. Pure.

Every link is appended with the sequence of the link before it, so of two attempts only one can write
the next. A worker that loses this race reads the chain again and keeps only what nobody has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glowplug_contracts.ids import ContainerId, WorkerId
from glowplug_contracts.messages.invocation import InputOutcome, InvocationRequested, Outcome


class Chain:
    """What is known of it. `last_sequence` is what the next link is appended on; 0 = it is empty."""

    __slots__ = ("_open", "last_sequence")

    def __init__(self, indexes: Iterable[int]) -> None:
        self._open = set(indexes)
        self.last_sequence = 0

    @property
    def complete(self) -> bool:
        """Return whether every input has its outcome in the chain."""
        return not self._open

    def read(self, links: Sequence[tuple[int, Outcome]]) -> list[Outcome]:
        """Take all stored links (sequence, link), oldest first; return those that were news.

        Links expire after minutes; an empty chain is appended to from 0 again.
        """
        seen = self.last_sequence
        self.last_sequence = links[-1][0] if links else 0
        news = [link for sequence, link in links if sequence > seen]
        for link in news:
            self._open.difference_update(each.index for each in link.outcomes)
        return news

    def unwritten(self, outcomes: Iterable[InputOutcome]) -> tuple[InputOutcome, ...]:
        """Return those of our outcomes that no link holds."""
        return tuple(each for each in outcomes if each.index in self._open)

    def compose(
        self,
        request: InvocationRequested,
        outcomes: tuple[InputOutcome, ...],
        *,
        container_id: ContainerId,
        worker_id: WorkerId,
        frames: int = -1,
    ) -> Outcome:
        """Return the next link; it is the last one if nothing stays open after it."""
        return Outcome(
            invocation_id=request.invocation_id,
            attempt=request.attempt,
            outcomes=outcomes,
            container_id=container_id,
            worker_id=worker_id,
            last=self._open <= {each.index for each in outcomes},
            frames=frames,
        )

    def wrote(self, sequence: int, link: Outcome) -> None:
        """Our link was stored."""
        self.last_sequence = sequence
        self._open.difference_update(each.index for each in link.outcomes)
