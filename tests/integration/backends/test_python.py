"""The interpreters of this host answer for themselves."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from glowplug_worker.runtime.python import find_pythons, minor


def test_the_platforms_own_comes_first_and_every_one_is_what_it_says():
    pythons = find_pythons()
    assert pythons.versions()[0] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    for version in pythons.versions():
        found = pythons.find(version)
        assert minor(found) == version
        answer = subprocess.run(
            [
                found.executable,
                "-I",
                "-S",
                "-c",
                "import sys; print(sys.version.split()[0], sys.prefix)",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.split() == [found.version, str(found.prefix)]


def test_no_version_means_the_platforms_own_and_unknown_ones_are_none():
    pythons = find_pythons()
    assert pythons.find("").version == sys.version.split()[0]
    assert pythons.find("2.7") is None
    assert pythons.find("3.99") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_passed_over(monkeypatch, tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o000)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "theirs"))
    assert find_pythons().versions()
