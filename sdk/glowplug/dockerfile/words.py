"""Words of an instruction, and variables in them, as Docker reads them. Pure.

What no ENV or ARG of the Dockerfile says may be said by the image that it begins with. Such a name stays as
`${NAME}`, to be filled in where that image is known; a dollar that is none is written `$$` until then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from glowplug.dockerfile.lines import DockerfileError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([-+])([^{}]*))?\}")


def split_words(line: int, text: str) -> list[str]:
    """Return words as they are written, quotes included. Raises: DockerfileError."""
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        sign = text[at]
        if sign == "\\" and quote != "'":
            word += text[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if sign == quote else quote
            word += sign
        elif sign in "\"'":
            quote = sign
            word += sign
        elif sign.isspace():
            if word:
                words.append(word)
            word = ""
        else:
            word += sign
        at += 1
    if quote:
        raise DockerfileError(line, f"a {quote} is not closed")
    return [*words, word] if word else words


def fill(line: int, text: str, values: Mapping[str, str]) -> str:
    """Return a word without its quotes and with its variables: a template, see the module.

    Raises: DockerfileError for a form of variables that is not known.
    """
    return "".join(_filled(line, text, values))


def _filled(line: int, text: str, values: Mapping[str, str]) -> Iterator[str]:
    at, quote = 0, ""
    while at < len(text):
        sign = text[at]
        if sign == "\\" and quote != "'" and at + 1 < len(text):
            after = text[at + 1]
            kept = quote == '"' and after not in '"\\$'
            yield ("\\" if kept else "") + ("$$" if after == "$" else after)
            at += 2
        elif quote == "'" and sign != "'":
            yield "$$" if sign == "$" else sign
            at += 1
        elif sign in "\"'" and quote in ("", sign):
            quote = "" if quote else sign
            at += 1
        elif sign == "$":
            value, at = _variable(line, text, at + 1, values)
            yield value
        else:
            yield sign
            at += 1


def _variable(line: int, text: str, at: int, values: Mapping[str, str]) -> tuple[str, int]:
    if match := _NAME.match(text, at):
        return values.get(match[0], f"${{{match[0]}}}"), match.end()
    if not text.startswith("{", at):
        return "$$", at
    match = _BRACED.match(text, at)
    if match is None:
        raise DockerfileError(
            line,
            f"{text[at - 1 : at + 40]!r}: of variables, $NAME, ${{NAME}}, :- and :+ are supported",
        )
    name, how, other = match.groups()
    known = values.get(name)
    if how is None:
        return values.get(name, f"${{{name}}}"), match.end()
    instead = "".join(_filled(line, other, values))
    if how == "-":
        return known or instead, match.end()
    return instead if known else "", match.end()
