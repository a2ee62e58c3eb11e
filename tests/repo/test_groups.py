"""Tests that look at their host are kept together, however many processes run the tests."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import BESIDE, ONE_BY_ONE, group_of


def test_what_looks_at_the_host_is_one_group() -> None:
    assert group_of("tests/e2e/test_calls.py::test_one[a::b]") == "host"
    assert group_of("tests/security/test_kernel.py::test_two") == "host"
    assert group_of("tests/security/test_fuzz.py::test_three") == "security/test_fuzz.py"
    assert group_of("tests/unit/sdk/test_four.py::test") == "unit/sdk/test_four.py"


def test_the_groups_name_what_there_is() -> None:
    for name in (*ONE_BY_ONE, *BESIDE):
        assert Path("tests", name).exists(), name
