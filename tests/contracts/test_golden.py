"""Old and new can talk: everything ever written can be read, and means what it meant."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from glowplug_contracts.codec import decode, encode

from tests.contracts.compatibility import breaks, schemas
from tests.contracts.golden import SCHEMAS, fixtures, spread, uncovered
from tests.contracts.walk import samples, wire_types
from tests.repo.tree import ROOT

FIXTURES = list(fixtures())


def lacks(today: Any, recorded: Any) -> bool:
    """Return whether something recorded is gone or different (more fields are fine)."""
    if isinstance(recorded, dict):
        return not isinstance(today, dict) or any(
            key not in today or lacks(today[key], value) for key, value in recorded.items()
        )
    if isinstance(recorded, list):
        return len(today) != len(recorded) or any(map(lacks, today, recorded))
    return bool(today != recorded)


@pytest.mark.parametrize(("path", "name", "wire"), FIXTURES, ids=lambda v: getattr(v, "stem", v))
def test_what_was_once_written_means_the_same_today(path: Path, name: str, wire: str) -> None:
    kind, _ = wire_types()[name]
    today = spread(decode(path.read_bytes(), kind, wire))  # type: ignore[arg-type]
    recorded = msgspec.json.decode(path.with_suffix(".expect").read_bytes())
    assert not lacks(today, recorded), msgspec.json.format(msgspec.json.encode(today)).decode()


def test_every_field_of_every_message_is_recorded() -> None:
    missing = [f"{name} ({case})" for name, case, _, _ in uncovered()]
    assert missing == [], "run `just docs`: it records what is new"


def test_fixtures_are_only_ever_added() -> None:
    try:
        done = subprocess.run(
            ["git", "log", "--diff-filter=MDRT", "--format=%h %s", "--", "tests/contracts/golden"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as err:
        pytest.skip(f"no git history here: {err}")
    assert done.stdout == ""


def test_messages_survive_the_wire() -> None:
    for name, kind, wire, _, value in samples():
        assert decode(encode(value, wire), kind, wire) == value, name  # type: ignore[arg-type]


def test_a_field_from_the_future_is_no_obstacle() -> None:
    for name, kind, wire, _, value in samples():
        if wire == "raw":
            continue  # strangers' bytes have no fields
        pack = msgspec.json if wire == "json" else msgspec.msgpack
        raw = pack.decode(encode(value, wire)) | {"from_the_future": [1]}  # type: ignore[arg-type]
        assert decode(pack.encode(raw), kind, wire) == value, name  # type: ignore[arg-type]


def test_schemas_only_grow() -> None:
    assert breaks(msgspec.json.decode(SCHEMAS.read_bytes()), schemas(wire_types())) == []


class Old(msgspec.Struct):
    name: str
    size: int = 1
    tags: tuple[str, ...] = ()


def changed(**fields: Any) -> list[str]:
    new = msgspec.defstruct("Old", [(n, *f) for n, f in fields.items()])
    return breaks(schemas({"x": (Old, "json")}), schemas({"x": (new, "json")}))


def test_breaking_changes_are_noticed() -> None:
    same = {"name": (str,), "size": (int, 1), "tags": (tuple[str, ...], ())}
    assert changed(**same) == []
    assert changed(**same, more=(str, "")) == []
    assert changed(**{**same, "size": (float, 1)}) == []
    assert changed(**{**same, "size": (int | None, 1)}) == []
    assert changed(name=(str,), size=(int, 1)) == ["x.tags: removed"]
    assert changed(more=(str,), **same) == ["x.more: has become required"]
    assert changed(**{**same, "size": (int, 2)}) == ["x.size: default was 1"]
    assert changed(**{**same, "size": (str, 1)}) == ["x.size: was integer, is string"]
    assert changed(**{**same, "tags": (tuple[int, ...], ())}) == [
        "x.tags[]: was string, is integer"
    ]
