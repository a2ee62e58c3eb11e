"""What the suite has shown, kept while it runs, and the table of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import msgspec


class Row(msgspec.Struct):
    """One attempt in one place: whether it was contained, and what shows that it works elsewhere."""

    family: str
    name: str
    place: str
    contained: bool
    declared: str = ""  # what the backend says it does not enforce
    shown: bool = False
    why_not: str = ""


class Ledger:
    """All rows of a run."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def lines(self, *, full: bool) -> Iterator[str]:
        """Yield the table: a line a place and family, then the attempts whose control is not shown."""
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.rows:
            groups[row.place, "" if not full else row.family].append(row)
        yield f"{'where':<24} {'family':<16} {'attempts':>8} {'contained':>9} {'not offered':>11} {'control shown':>13} {'told why not':>12}"  # noqa: E501
        for (place, family), rows in groups.items():
            counts = (
                len(rows),
                sum(row.contained for row in rows),
                sum(bool(row.declared) for row in rows),
                sum(row.shown for row in rows),
                sum(not row.shown for row in rows),
            )
            numbers = "{:>8} {:>9} {:>11} {:>13} {:>12}".format(*counts)
            yield f"{place:<24} {family or 'all':<16} {numbers}"
        different = {row.name for row in self.rows}
        shown = {row.name for row in self.rows if row.shown}
        yield f"{len(different)} different attempts; the control of {len(shown)} is shown here"
        if full:
            yield from self._reasons()

    def _reasons(self) -> Iterator[str]:
        told = {}
        for row in self.rows:
            if not row.shown:
                told[row.name] = row.why_not
        if told:
            yield "without a control, and why:"
        for name, why in told.items():
            yield f"  {name}: {why}"
        declared = sorted({(row.place, row.declared) for row in self.rows if row.declared})
        if declared:
            yield "said by the backend itself not to be enforced:"
        for place, word in declared:
            yield f"  {place}: {word}"
