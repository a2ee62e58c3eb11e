"""Recorded wire fixtures and schemas: what was once written must be readable for ever.

`golden/<name>/<number>-<case>.<wire>` holds bytes as they were on the wire, `….expect` beside it what
they meant when they were recorded. Fixtures are only ever added: `just docs` records what is missing
(a new subject, a new field) and never touches what is there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from glowplug_contracts.codec import encode

from tests.contracts.compatibility import breaks, schemas
from tests.contracts.walk import samples, wire_types

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
SCHEMAS = HERE / "schemas.json"


def spread(value: Any) -> Any:
    """Return a value as plain data with every field, those at their default too."""
    if isinstance(value, msgspec.Struct):
        return {name: spread(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(spread(key)): spread(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [spread(one) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(spread(one) for one in value)
    return msgspec.to_builtins(value)


def fixtures() -> Iterator[tuple[Path, str, str]]:
    """Return every recorded fixture with its type's name and its wire."""
    for expect in sorted(GOLDEN.glob("*/*.expect")):
        wire = next(p for p in expect.parent.glob(f"{expect.stem}.*") if p != expect)
        yield wire, expect.parent.name, wire.suffix[1:]


def covers(recorded: Any, value: Any) -> bool:
    """Return whether a recorded meaning has every field that `value` has."""
    if isinstance(value, dict):
        return isinstance(recorded, dict) and all(
            key in recorded and covers(recorded[key], one) for key, one in value.items()
        )
    if isinstance(value, list) and value:
        return isinstance(recorded, list) and bool(recorded) and covers(recorded[0], value[0])
    return (recorded is None) == (value is None)


def uncovered() -> list[tuple[str, str, str, Any]]:
    """Return the samples whose fields no fixture records: (name, case, wire, value)."""
    missing = []
    for name, _, wire, case, value in samples():
        meanings = [
            msgspec.json.decode(path.read_bytes())
            for path in sorted((GOLDEN / name).glob(f"*-{case}.expect"))
        ]
        if case == "minimal" and meanings:
            continue
        if not any(covers(meaning, spread(value)) for meaning in meanings):
            missing.append((name, case, wire, value))
    return missing


def record() -> None:
    """Write what is missing."""
    for name, case, wire, value in uncovered():
        folder = GOLDEN / name
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.expect"))) + 1
        stem = folder / f"{number}-{case}"
        stem.with_suffix(f".{wire}").write_bytes(encode(value, wire))  # type: ignore[arg-type]
        meaning = msgspec.json.format(msgspec.json.encode(spread(value)), indent=1)
        stem.with_suffix(".expect").write_bytes(meaning + b"\n")
        sys.stdout.write(f"recorded {stem.relative_to(HERE)}\n")


def write_schemas() -> None:
    """Write today's schemas, unless they break with those that are recorded."""
    new = schemas(wire_types())
    if SCHEMAS.exists():
        broken = breaks(msgspec.json.decode(SCHEMAS.read_bytes()), new)
        if broken:
            sys.exit("schemas.json is kept as it is, because this breaks it:\n" + "\n".join(broken))
    text = msgspec.json.format(msgspec.json.encode(new, order="deterministic"), indent=1) + b"\n"
    if not SCHEMAS.exists() or SCHEMAS.read_bytes() != text:
        SCHEMAS.write_bytes(text)
        sys.stdout.write("wrote tests/contracts/schemas.json\n")


if __name__ == "__main__":
    record()
    write_schemas()
