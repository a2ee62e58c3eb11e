"""Requirement lines and files: what is sent, and what is refused with which sentence."""

from __future__ import annotations

import pytest
from glowplug.requirements import read_requirements

FILE = """\
# ours
-r base/common.txt
--extra-index-url https://${USER}:${TOKEN}@packages.example/simple
numpy[extra]==2.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb  # as locked
tomli>=2 ; python_version < "3.11"  # older ones
tool @ https://files.example/tool.whl#sha256=cc

"""
SENT = (
    "requests",
    "six==1.17.0",
    "--extra-index-url https://${USER}:${TOKEN}@packages.example/simple",
    "numpy[extra]==2.0 --hash=sha256:aa --hash=sha256:bb",
    'tomli>=2 ; python_version < "3.11"',
    "tool @ https://files.example/tool.whl#sha256=cc",
)


def test_a_file_is_read_with_those_that_it_includes(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/common.txt").write_text("\ufeffrequests\r\n--requirement=deeper.in\r\n")
    (tmp_path / "base/deeper.in").write_text("six==1.17.0\n")
    file = tmp_path / "requirements.txt"
    file.write_text(FILE)
    assert read_requirements(str(file)) == SENT
    assert read_requirements(["a==1", " b "]) == ("a==1", "b")
    assert read_requirements("a==1") == ("a==1",)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-c constraints.txt", "constraints are not taken"),
        ("--constraint=constraints.txt", "constraints are not taken"),
        ("-e .", "add_local_dir"),
        ("--editable ./tool", "add_local_dir"),
        ("./tool", "add_local_dir"),
        ("..", "add_local_dir"),
        ("tool @ file:./tool", "add_local_dir"),
    ],
)
def test_what_names_files_of_this_machine_is_refused(tmp_path, line, says):
    file = tmp_path / "requirements.txt"
    file.write_text(f"numpy\n{line}\n")
    for given in (str(file), [line]):
        with pytest.raises(ValueError, match=says):
            read_requirements(given)


def test_a_file_that_includes_itself_or_one_that_is_not_there_is_an_error(tmp_path):
    file, other = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("-r b.txt\n")
    with pytest.raises(FileNotFoundError, match=r"b\.txt"):
        read_requirements(str(file))
    other.write_text("-ra.txt\n")
    with pytest.raises(ValueError, match="includes itself"):
        read_requirements(str(file))
    with pytest.raises(ValueError, match="path itself"):
        read_requirements(["-r a.txt"])
    with pytest.raises(ValueError, match="says something"):
        read_requirements(["a", " "])
