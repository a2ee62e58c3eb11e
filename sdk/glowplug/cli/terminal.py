"""Text of others on somebody's terminal: it may have colours, and no other power over what is seen.

Output of functions, their exceptions, names in events and headers of letters are whatever somebody's code
says. A terminal obeys sequences that move the cursor, retitle the window, write into the clipboard
(OSC 52) or answer as if typed; these are shown, not obeyed. `--json` escapes by itself.
"""

from __future__ import annotations

import re

# Colours and weights alone: CSI, numbers, "m"; but for 8, which hides what follows.
_COLOUR = re.compile(r"\x1b\[(?!(?:[0-9;:]*[;:])?0*8(?:[;:m]))[0-9;:]{0,32}m")
# Control characters (C0 but tab, DEL, C1), line separators, and marks that turn the direction of text.
_POWER = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]"
)
_RESET = "\x1b[0m"


def one_line(value: object) -> str:
    """Return text for one line: no colours, and line breaks are shown as what they are."""
    return _POWER.sub(_spelled, str(value))


def many_lines(value: object) -> str:
    """Return text whose lines and colours stay; what stood before a carriage return was written over."""
    shown = "\n".join(_line(line) for line in str(value).split("\n"))
    return shown + _RESET if "\x1b" in shown else shown


def _line(text: str) -> str:
    text = text.rstrip("\r").rpartition("\r")[2]
    pieces = []
    at = 0
    for colour in _COLOUR.finditer(text):
        pieces += [_POWER.sub(_spelled, text[at : colour.start()]), colour.group()]
        at = colour.end()
    return "".join([*pieces, _POWER.sub(_spelled, text[at:])])


def _spelled(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")
