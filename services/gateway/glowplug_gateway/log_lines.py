"""Log lines for every door that shows them: history first, then what comes, and nothing twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import msgspec
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.container import LogSegment

from glowplug_gateway.logs import Dropped, Entry, Logs, Mark, lines_of
from glowplug_gateway.readmodel import LogsWanted, ReadModel

SEGMENTS_READ_MAX = 20_000


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        wanted: deployments by id or name; none = all of the workspace.
        invocation, container: only what this one wrote; "" = everything.
        since: Unix time; nothing older.
        tag: names the follower, so that marks find it.
        tail: so many lines of history.
        follow: whether to go on as lines come.
    """

    workspace: WorkspaceId
    wanted: frozenset[str] = frozenset()
    invocation: str = ""
    container: str = ""
    since: float = 0.0
    tag: str = ""
    tail: int = 0
    follow: bool = False


async def log_lines(
    logs: Logs, readmodel: ReadModel, query: LogQuery
) -> AsyncGenerator[dict[str, object], None]:
    """Yield lines as JSON shows them; also gaps (`dropped`) and marks (`mark`)."""
    # The follower collects before history is read, so that nothing falls between the two.
    with logs.follower(query.workspace, query.wanted, query.tag) as follower:
        numbers = _Numbers()
        if query.tail:
            wanted = LogsWanted(
                deployments=tuple(sorted(query.wanted)),
                container=query.container,
                invocation=query.invocation,
                since=query.since,
                segments_max=min(query.tail, SEGMENTS_READ_MAX),
            )
            segments = await readmodel.logs(query.workspace, wanted)
            for value in list(_history(segments, query, numbers))[-query.tail :]:
                yield value
        if not query.follow:
            return
        async for entry in lines_of(follower):
            if isinstance(entry, LogSegment) and numbers.knows(entry):
                continue  # it was in the history
            for value in _values_and_gaps(entry, query, numbers):
                yield value


class _Numbers:
    """The last segment seen of each container: which are known, and how many are missing before one."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def knows(self, segment: LogSegment) -> bool:
        return segment.number <= self._last.get(segment.container_id, -1)

    def take(self, segment: LogSegment) -> int:
        """Note a segment; return how many are missing between the one before and this one."""
        before = self._last.get(segment.container_id)
        self._last[segment.container_id] = segment.number
        return 0 if before is None else max(0, segment.number - before - 1)


def _history(
    segments: list[LogSegment], query: LogQuery, numbers: _Numbers
) -> Iterator[dict[str, object]]:
    for segment in segments:
        yield from _values_and_gaps(segment, query, numbers)


def _values_and_gaps(
    entry: Entry, query: LogQuery, numbers: _Numbers
) -> Iterator[dict[str, object]]:
    if isinstance(entry, LogSegment):
        missing = numbers.take(entry)
        # History by invocation holds chosen segments only, between which others are missing anyway.
        if missing and not query.invocation:
            about = {"container_id": entry.container_id, "name": entry.name}
            why = "the broker went away while they were sent; there may be more of them"
            yield {"dropped": missing, "why": why} | about
    yield from _values(entry, query)


def _values(entry: Entry, query: LogQuery) -> Iterator[dict[str, object]]:
    match entry:
        case Mark(text):
            yield {"mark": text}
        case Dropped(lines):
            yield {"dropped": lines, "why": "the reader was too slow"}
        case LogSegment() if not query.container or entry.container_id == query.container:
            about = {
                "container_id": entry.container_id,
                "deployment_id": entry.deployment_id,
                "name": entry.name,
            }
            if entry.dropped:
                yield {"dropped": entry.dropped, "why": "the program wrote too fast"} | about
            for line in entry.lines:
                if line.at >= query.since and query.invocation in ("", line.invocation_id):
                    yield {
                        "at": line.at,
                        "stream": line.stream,
                        "text": line.text,
                        "invocation_id": line.invocation_id,
                    } | about
