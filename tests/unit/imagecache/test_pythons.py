"""Finding an image's Python by its files' names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from glowplug_contracts.errors import RejectedError
from glowplug_contracts.trees import AnyEntry, Directory, File, FlatTree, HardLink, Symlink
from glowplug_imagecache.pythons import find_python

ABOUT = (0o755, 0, 0, 0, 0, ())


def a_tree(paths: Mapping[str, str | int | None]) -> FlatTree:
    """Return a tree: a mode is a file, "-> x" a link, "= x" another name of the file x."""
    folders = {"": 0}
    entries: list[AnyEntry] = [Directory(0, b"", *ABOUT)]
    numbers: dict[str, int] = {}
    for path in sorted(
        {"/".join(p.split("/")[:n]) for p in paths for n in range(1, p.count("/") + 1)}
    ):
        above, _, name = path.rpartition("/")
        folders[path] = len(entries)
        entries.append(Directory(folders[above], name.encode(), *ABOUT))
    for path, what in paths.items():
        above, _, last = path.rpartition("/")
        parent, name = folders[above], last.encode()
        numbers[path] = len(entries)
        if isinstance(what, int):
            entries.append(File(parent, name, what, *ABOUT[1:], 0, ()))
        elif what is not None and what.startswith("-> "):
            entries.append(Symlink(parent, name, *ABOUT, what[3:].encode()))
        elif what is not None:
            entries.append(HardLink(parent, name, numbers[what[2:]]))
    return FlatTree(entries=tuple(entries))


DEBIAN = {"usr/bin/python3.11": 0o755, "usr/bin/python3": "-> python3.11", "bin": "-> usr/bin"}
OFFICIAL = {
    "usr/local/bin/python3.12": 0o755,
    "usr/local/bin/python3": "-> python3.12",
    "usr/local/bin/python": "-> python3",
}


@pytest.mark.parametrize(
    ("tree", "path", "wanted", "found"),
    [
        (DEBIAN, "", "", ("/usr/bin/python3", "3.11")),
        (OFFICIAL, "/usr/local/bin:/usr/bin", "3.12", ("/usr/local/bin/python3", "3.12")),
        ({**DEBIAN, **OFFICIAL}, "/usr/local/bin:/usr/bin", "", ("/usr/local/bin/python3", "3.12")),
        ({**DEBIAN, **OFFICIAL}, "/usr/local/bin:/usr/bin", "3.11", ("/usr/bin/python3", "3.11")),
        # A virtual environment is found as itself, or what is installed in it would be lost.
        (
            {**OFFICIAL, "app/.venv/bin/python": "-> /usr/local/bin/python3.12"},
            "/app/.venv/bin:/usr/local/bin",
            "",
            ("/app/.venv/bin/python", "3.12"),
        ),
        ({"o/python3": 0o755, "o/python3.13": "= o/python3"}, "/o", "", ("/o/python3", "3.13")),
        ({"o/python3.11": 0o755, "o/python3.12": 0o755}, "/o", "3.11", ("/o/python3.11", "3.11")),
        (DEBIAN, "/bin", "", ("/bin/python3", "3.11")),
        ({**DEBIAN, "up/x": "-> ../../../usr/bin"}, "/up/x", "", ("/up/x/python3", "3.11")),
    ],
)  # fmt: skip
def test_finds_the_interpreter_that_its_path_leads_to(
    tree: Mapping[str, str | int], path: str, wanted: str, found: tuple[str, str]
) -> None:
    python = find_python(a_tree(tree), path, wanted)
    assert (python.executable, python.version) == found


@pytest.mark.parametrize(
    ("tree", "path", "wanted", "says"),
    [
        (DEBIAN, "", "3.12", "python_version '3.12' is not in the image, which has Python 3.11"),
        ({}, "", "", "found: none"),
        ({"usr/bin/python3.9": 0o755, "usr/bin/python3": "-> python3.9"}, "", "", "found: 3.9"),
        ({"usr/bin/python3.11": 0o644}, "", "", "found: none"),
        ({"usr/bin/python3": "-> python3"}, "", "", "found: none"),
        ({"usr/bin/python3": "-> nowhere", "etc/python3.11": 0o755}, "", "", "found: none"),
        (DEBIAN, "usr/bin:bin", "", "found: none"),
    ],
)
def test_says_what_was_found_where_nothing_fits(
    tree: Mapping[str, str | int], path: str, wanted: str, says: str
) -> None:
    with pytest.raises(RejectedError, match=re.escape(says)) as caught:
        find_python(a_tree(tree), path, wanted)
    assert caught.value.code == "image.unsupported"
