"""`.dockerignore`: which files of a context nobody gets. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

PATTERNS_MAX = 10_000


def read_ignore(text: str) -> Callable[[str], bool]:
    """Return what says of a path, relative to the context, whether it is left out.

    As Docker has it: the last line that matches decides, `!` takes back, `**` is any number of directories, and
    what is below a directory that is left out is left out.
    """
    rules: list[tuple[re.Pattern[str], bool]] = []
    for line in text.splitlines()[:PATTERNS_MAX]:
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        takes_back = pattern.startswith("!")
        pattern = posixpath.normpath(pattern.lstrip("!").strip()).lstrip("/")
        if pattern not in ("", "."):
            rules.append((re.compile(_regex(pattern)), not takes_back))

    def is_left_out(path: str) -> bool:
        out = False
        for rule, leaves_out in rules:
            if rule.match(path):
                out = leaves_out
        return out

    return is_left_out


def _regex(pattern: str) -> str:
    """Return an expression for a path, or for what is below it."""
    made, at = "", 0
    while at < len(pattern):
        sign = pattern[at]
        if pattern.startswith("**/", at):
            made += "(?:.*/)?"
            at += 3
        elif pattern.startswith("**", at):
            made += ".*"
            at += 2
        elif sign == "*":
            made += "[^/]*"
            at += 1
        elif sign == "?":
            made += "[^/]"
            at += 1
        elif sign == "[" and (end := pattern.find("]", at + 2)) > 0:
            inner = pattern[at + 1 : end].replace("\\", "\\\\")
            made += f"[{'^' + inner[1:] if inner[0] in '!^' else inner}]"
            at = end + 1
        elif sign == "\\" and at + 1 < len(pattern):
            made += re.escape(pattern[at + 1])
            at += 2
        else:
            made += re.escape(sign)
            at += 1
    return f"{made}(?:/.*)?\\Z"
