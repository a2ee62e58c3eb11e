"""The read model's table of containers: one row each, with the last word about it and why it ended.

Fed from the containers' events; the oldest words go first beyond the bound. Everything here runs on the
read model's thread.
"""

from __future__ import annotations

import sqlite3

import msgspec
from glowplug_contracts.messages.container import ContainerChanged, ContainerState

Row = tuple[object, ...]

CONTAINERS_KEPT = 20_000
SCHEMA = """
CREATE TABLE IF NOT EXISTS containers (
    container TEXT PRIMARY KEY, workspace TEXT NOT NULL, deployment TEXT NOT NULL, worker TEXT NOT NULL,
    kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, code TEXT NOT NULL,
    message TEXT NOT NULL, started_at REAL NOT NULL, at REAL NOT NULL, sequence INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS containers_at ON containers (workspace, at, container);
"""
# The end that was announced first stands: a worker that was thought dead may speak later.
INSERT_CONTAINER = """
INSERT INTO containers VALUES (?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (container) DO UPDATE SET
    worker = excluded.worker, state = excluded.state, reason = excluded.reason, code = excluded.code,
    message = excluded.message, at = excluded.at, sequence = excluded.sequence
WHERE excluded.sequence > containers.sequence AND containers.state NOT IN ('stopped', 'failed')
"""
TRIM_CONTAINERS = """
DELETE FROM containers WHERE at < (SELECT at FROM containers ORDER BY at DESC LIMIT 1 OFFSET ?)
"""
MESSAGE_CHARS_MAX = 500


class ContainersWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which containers; what is empty wants all. `before`: (at, id) of the last one seen."""

    deployments: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    since: float = 0.0
    before: tuple[float, str] | None = None
    limit: int


class ContainerRow(msgspec.Struct, frozen=True):
    """A container as listed; the columns of the table."""

    container_id: str
    workspace: str
    deployment_id: str
    worker_id: str
    kind: str
    state: str
    reason: str
    code: str
    message: str
    started_at: float
    at: float
    sequence: int


def container_row(change: ContainerChanged, sequence: int) -> Row:
    """Return the row that an event comes to."""
    error = change.error
    return (
        change.container_id,
        change.workspace,
        change.deployment_id,
        change.worker_id,
        change.kind.value,
        change.state.value,
        change.reason,
        error.code if error is not None else "",
        error.message[:MESSAGE_CHARS_MAX] if error is not None else "",
        change.at,
        change.at,
        sequence,
    )


def find_containers(
    database: sqlite3.Connection, workspace: str, wanted: ContainersWanted
) -> list[ContainerRow]:
    """Return a page, the newest word first."""
    clauses: list[str] = ["workspace = ?", "at >= ?"]
    values: list[object] = [workspace, wanted.since]
    for column, given in (("deployment", wanted.deployments), ("state", wanted.states)):
        if given:
            clauses.append(f"{column} IN ({', '.join('?' * len(given))})")
            values += given
    if wanted.before is not None:
        clauses.append("(at, container) < (?, ?)")
        values += wanted.before
    rows = database.execute(
        f"SELECT * FROM containers WHERE {' AND '.join(clauses)} "  # noqa: S608 — only marks
        "ORDER BY at DESC, container DESC LIMIT ?",
        (*values, wanted.limit),
    )
    return [ContainerRow(*row) for row in rows]


STATES = frozenset(state.value for state in ContainerState)
