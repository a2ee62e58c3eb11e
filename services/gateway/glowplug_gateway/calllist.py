"""The read model's table of calls: one row each, durable ones from their records' headers, others from facts.

Durable rows stand as long as their records do and go with them. Rows of interactive calls are made from the
facts only when somebody asks for a list, so that calls are not slowed by their own history; the oldest go
beyond the bound. Everything here runs on the read model's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec
from glowplug_contracts.messages.dispatch import InvocationFact
from glowplug_contracts.messages.record import (
    HEADER_ABOUT,
    HEADER_ACCEPTED,
    HEADER_ATTEMPT,
    HEADER_CONTAINER,
    HEADER_DEPLOYMENT,
    HEADER_STATE,
    RecordAbout,
)

Row = tuple[object, ...]

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    invocation TEXT PRIMARY KEY, workspace TEXT NOT NULL, deployment TEXT NOT NULL,
    name TEXT NOT NULL, app TEXT NOT NULL, durable INTEGER NOT NULL, state TEXT NOT NULL,
    attempt INTEGER NOT NULL, at REAL NOT NULL, ended_at REAL NOT NULL, run_ms REAL NOT NULL,
    inputs INTEGER NOT NULL, container TEXT NOT NULL, error_type TEXT NOT NULL, parent TEXT NOT NULL,
    letter INTEGER NOT NULL, replayed_as TEXT NOT NULL, callback TEXT NOT NULL,
    fraction REAL NOT NULL, gone_at REAL NOT NULL, sequence INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS calls_at ON calls (workspace, at, invocation);
CREATE INDEX IF NOT EXISTS calls_letter ON calls (workspace, at, invocation) WHERE letter = 1;
CREATE INDEX IF NOT EXISTS calls_parent ON calls (parent) WHERE parent != '';
CREATE INDEX IF NOT EXISTS calls_interactive ON calls (at) WHERE durable = 0;
CREATE INDEX IF NOT EXISTS calls_gone ON calls (gone_at) WHERE gone_at > 0;
CREATE TABLE IF NOT EXISTS tags (
    tag TEXT NOT NULL, invocation TEXT NOT NULL, PRIMARY KEY (tag, invocation)) WITHOUT ROWID;
"""
COLUMNS = (
    "invocation, workspace, deployment, name, app, durable, state, attempt, at, ended_at, run_ms, "
    "inputs, container, error_type, parent, letter, replayed_as, callback, fraction, gone_at, sequence"
)
INSERT_RECORD = f"""
INSERT INTO calls ({COLUMNS}) VALUES (?,?,?,?,?,1,?,?,?,?,?,1,?,?,?,?,?,?,?,?,?)
ON CONFLICT (invocation) DO UPDATE SET
    deployment = excluded.deployment, name = excluded.name, app = excluded.app, durable = 1,
    state = excluded.state, attempt = excluded.attempt, at = excluded.at,
    ended_at = excluded.ended_at, run_ms = excluded.run_ms, container = excluded.container,
    error_type = excluded.error_type, parent = excluded.parent, letter = excluded.letter,
    replayed_as = excluded.replayed_as, callback = excluded.callback,
    fraction = excluded.fraction, gone_at = excluded.gone_at, sequence = excluded.sequence
WHERE excluded.sequence > calls.sequence
"""  # noqa: S608 — only names of columns
INSERT_TAG = "INSERT OR IGNORE INTO tags (tag, invocation) VALUES (?, ?)"
INSERT_FACT = f"""
INSERT INTO calls ({COLUMNS}) VALUES (?,?,?,'','',0,?,?,?,?,?,?,?,?,'',0,'','',-1,0,0)
ON CONFLICT (invocation) DO UPDATE SET
    state = excluded.state, attempt = excluded.attempt, ended_at = excluded.ended_at,
    run_ms = excluded.run_ms, inputs = max(calls.inputs, excluded.inputs),
    container = excluded.container, error_type = excluded.error_type
WHERE calls.durable = 0 AND excluded.attempt >= calls.attempt
"""  # noqa: S608
TRIM_INTERACTIVE = """
DELETE FROM calls WHERE durable = 0 AND at < (
    SELECT at FROM calls WHERE durable = 0 ORDER BY at DESC LIMIT 1 OFFSET ?)
"""
TRIM_GONE = "DELETE FROM calls WHERE gone_at > 0 AND gone_at < ?"
TRIM_TAGS = "DELETE FROM tags WHERE invocation NOT IN (SELECT invocation FROM calls)"
DIGESTED = "facts digested"
# Removed rows stand as long gone until they are trimmed: what comes late does not bring them back.
REMOVED_AT = 1.0

_ABOUT = msgspec.json.Decoder(RecordAbout)
_FACTS = msgspec.msgpack.Decoder(tuple[InvocationFact, ...])


class CallFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls are wanted; what is empty or None wants all.

    Attributes:
        deployments: ids of versions; with `name`, calls of either.
        apps: ids of versions of the app; with `app`, calls of either.
        letters: only dead letters.
        replayed: only dead letters that were (not) replayed.
        before: the cursor, (at, invocation) of the last call seen.
    """

    deployments: tuple[str, ...] = ()
    name: str = ""
    app: str = ""
    app_deployments: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    tag: str = ""
    parent: str = ""
    since: float = 0.0
    error_type: str = ""
    durable: bool | None = None
    letters: bool = False
    replayed: bool | None = None
    before: tuple[float, str] | None = None


class CallRow(msgspec.Struct, frozen=True):
    """A call as listed; the columns of the table."""

    invocation_id: str
    workspace: str
    deployment_id: str
    name: str
    app: str
    durable: int
    state: str
    attempt: int
    at: float
    ended_at: float
    run_ms: float
    inputs: int
    container_id: str
    error_type: str
    parent: str
    letter: int
    replayed_as: str
    callback: str
    fraction: float
    gone_at: float
    sequence: int


def record_rows(
    fields: Mapping[str, str], headers: Mapping[str, str], sequence: int
) -> list[tuple[str, Row]]:
    """Return the statements and rows that a record's word, or its removal, comes to."""
    invocation, state = fields["invocation_id"], headers.get(HEADER_STATE)
    about = _ABOUT.decode(headers.get(HEADER_ABOUT) or "{}")
    row = (
        invocation,
        fields["workspace"],
        headers.get(HEADER_DEPLOYMENT, ""),
        about.name,
        about.app,
        state or "",
        int(headers.get(HEADER_ATTEMPT) or 0),
        float(headers.get(HEADER_ACCEPTED) or 0.0),
        about.ended_at,
        about.run_ms,
        headers.get(HEADER_CONTAINER, ""),
        about.error_type,
        about.parent,
        int(about.letter),
        about.replayed_as,
        about.callback,
        about.fraction,
        REMOVED_AT if state is None else about.gone_at,
        sequence,
    )
    tags = [(INSERT_TAG, (tag, invocation)) for tag in tags_of(about.tags)]
    return [(INSERT_RECORD, row), *tags]


def tags_of(tags: Mapping[str, str]) -> list[str]:
    """Return under which words a call is found: each tag's key, and key=value."""
    return [word for key, value in tags.items() for word in (key, f"{key}={value}")]


def digest_facts(database: sqlite3.Connection) -> None:
    """Make rows of the facts that came since the last time."""
    found = database.execute("SELECT sequence FROM follows WHERE stream = ?", (DIGESTED,))
    (done,) = found.fetchone() or (0,)
    last = done
    for row, body in database.execute(
        "SELECT row, body FROM facts WHERE row > ? ORDER BY row", (done,)
    ).fetchall():
        database.executemany(INSERT_FACT, [_fact_row(fact) for fact in _FACTS.decode(body)])
        last = row
    database.execute("INSERT OR REPLACE INTO follows VALUES (?, ?, 0)", (DIGESTED, last))


def _fact_row(fact: InvocationFact) -> Row:
    return (
        fact.invocation_id,
        fact.workspace,
        fact.deployment_id,
        fact.state.value,
        fact.attempt,
        fact.at,
        fact.at,
        fact.run_ms,
        fact.inputs,
        fact.container_id,
        fact.error_type,
    )


def trim_calls(database: sqlite3.Connection, interactive_max: int, now_unix: float) -> None:
    """Forget what is beyond the bound, and what the broker has removed by itself."""
    database.execute(TRIM_INTERACTIVE, (interactive_max,))
    if database.execute(TRIM_GONE, (now_unix,)).rowcount > 0:
        database.execute(TRIM_TAGS)


def find_calls(
    database: sqlite3.Connection,
    workspace: str,
    wanted: CallFilter,
    limit: int,
    now_unix: float,
) -> Sequence[CallRow]:
    """Return at most `limit` calls, newest first, each at most once over all pages."""
    conditions, values = _conditions(wanted)
    conditions = ["workspace = ?", "(gone_at = 0 OR gone_at > ?)", *conditions]
    rows = database.execute(
        f"SELECT {COLUMNS} FROM calls WHERE {' AND '.join(conditions)} "  # noqa: S608 — only marks
        "ORDER BY at DESC, invocation DESC LIMIT ?",
        (workspace, now_unix, *values, limit),
    )
    return [CallRow(*row) for row in rows]


def _conditions(wanted: CallFilter) -> tuple[list[str], list[object]]:
    """Return the conditions of what is wanted, and the values for their marks."""
    of_deployment = (
        f"(deployment IN ({_marks(wanted.deployments)}) OR (name = ? AND name != ''))",
        (*wanted.deployments, wanted.name),
    )
    of_app = (
        f"(deployment IN ({_marks(wanted.app_deployments)}) OR app = ?)",
        (*wanted.app_deployments, wanted.app),
    )
    tagged = "invocation IN (SELECT invocation FROM tags WHERE tag = ?)"
    replayed = "replayed_as != ''" if wanted.replayed else "replayed_as = ''"
    table: tuple[tuple[object, str, tuple[object, ...]], ...] = (
        (wanted.deployments or wanted.name, *of_deployment),
        (wanted.app, *of_app),
        (wanted.states, f"state IN ({_marks(wanted.states)})", wanted.states),
        (wanted.tag, tagged, (wanted.tag,)),
        (wanted.parent, "parent = ?", (wanted.parent,)),
        (wanted.since, "at >= ?", (wanted.since,)),
        (wanted.error_type, "error_type = ?", (wanted.error_type,)),
        (wanted.durable is not None, "durable = ?", (wanted.durable,)),
        (wanted.letters, "letter = 1", ()),
        (wanted.replayed is not None, replayed, ()),
        (wanted.before, "(at, invocation) < (?, ?)", wanted.before or ()),
    )
    given = [(condition, values) for asked, condition, values in table if asked]
    return [one for one, _ in given], [value for _, values in given for value in values]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
