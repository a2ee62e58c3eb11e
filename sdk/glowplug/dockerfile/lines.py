"""A Dockerfile's text as instructions: continued lines joined, comments gone, flags apart. Pure.

Every instruction keeps the number of the line that it begins on, since that is what errors say.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

BYTES_MAX = 1024 * 1024
INSTRUCTIONS_MAX = 1000

_DIRECTIVE = re.compile(r"#\s*([A-Za-z]+)\s*=\s*(\S.*?)\s*\Z")
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S*))?(?:\s+|\Z)")
_HEREDOC = re.compile(r"(?:\A|\s)<<-?[\"']?[A-Za-z_]")


class DockerfileError(ValueError):
    """What a Dockerfile says can't be done; the message begins with its line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"Dockerfile, line {line}: {message}")
        self.line = line


@dataclass(frozen=True)
class Instruction:
    """One instruction: `RUN`, its flags, and the rest as it is written."""

    line: int
    name: str
    flags: tuple[tuple[str, str], ...]
    text: str

    def words(self) -> tuple[str, ...] | None:
        """Return the words of the JSON form (`["a", "b"]`), None for any other."""
        if not self.text.startswith("["):
            return None
        try:
            found = json.loads(self.text)
        except ValueError:
            return None
        if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
            return None
        return tuple(found)


def read_lines(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile. Raises: DockerfileError."""
    if len(text) > BYTES_MAX:
        raise DockerfileError(1, f"it has over {BYTES_MAX} characters")
    found: list[Instruction] = []
    joined, begun = "", 0
    in_directives = True
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if in_directives and (match := _DIRECTIVE.match(bare)):
            _check_directive(number, match[1].lower(), match[2])
            continue
        in_directives = False
        if bare.startswith("#") or (not bare and not joined):
            continue
        begun = begun or number
        if bare.endswith("\\"):
            joined += line.rstrip()[:-1]
            continue
        if not bare:
            continue  # an empty line inside a continued one, which Docker forgives
        found.append(_instruction(begun, (joined + line).strip()))
        joined, begun = "", 0
        if len(found) > INSTRUCTIONS_MAX:
            raise DockerfileError(number, f"there are over {INSTRUCTIONS_MAX} instructions")
    if joined.strip():
        found.append(_instruction(begun, joined.strip()))
    return found


def _check_directive(number: int, name: str, value: str) -> None:
    if name == "escape" and value != "\\":
        raise DockerfileError(number, f"escape={value} is not supported: use backslashes")


def _instruction(line: int, text: str) -> Instruction:
    name, _, rest = text.partition(" ")
    if "\t" in name:
        name, _, more = name.partition("\t")
        rest = f"{more} {rest}"
    rest = rest.strip()
    flags: list[tuple[str, str]] = []
    while match := _FLAG.match(rest):
        flags.append((match[1], match[2] or ""))
        rest = rest[match.end() :]
    name = name.upper()
    if name in ("RUN", "COPY", "ADD") and _HEREDOC.search(rest):
        raise DockerfileError(
            line,
            f"{name} with a here-document is not supported: write a file and COPY it, or use &&",
        )
    return Instruction(line, name, tuple(flags), rest)
