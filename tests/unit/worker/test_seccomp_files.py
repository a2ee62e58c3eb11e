"""The profile of system calls as a file: what ours says, and which of an operator's is taken."""

from __future__ import annotations

import json

import msgspec
import pytest
from glowplug_worker.runtime import seccomp, seccomp_files
from glowplug_worker.runtime.seccomp_files import describe, load_profile, own_profile
from glowplug_worker.runtime.seccomp_rules import ProfileError

MORE = {"name": "ours", "groups": [{"name": "g", "why": "w", "calls": ["mincore", "splice"]}]}


@pytest.fixture
def file(tmp_path):
    def write(content: object) -> str:
        path = tmp_path / "more.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_every_group_and_rule_of_ours_says_why():
    profile = own_profile()
    assert all(len(each.why) >= 10 for each in (*profile.groups, *profile.rules))
    named = [call for group in profile.groups for call in group.calls]
    assert len(named) == len(set(named))
    assert not set(named) & {rule.call for rule in profile.rules}


@pytest.mark.parametrize("machine", sorted(seccomp.ARCHITECTURES))
def test_no_two_calls_of_a_machine_have_one_number(machine):
    known = seccomp_files.numbers(machine)
    assert len(set(known.values())) == len(known)
    assert known["mseal"] == 462


def test_without_a_file_it_is_ours():
    assert load_profile("") is own_profile()


def test_a_file_adds_its_refusals_to_ours(file):
    both = load_profile(file(MORE))
    assert set(both.refused()) == set(own_profile().refused()) | {"mincore", "splice"}
    assert both.judged() == own_profile().judged()
    assert both.name == "glowplug 1 + ours"


def test_a_call_that_is_refused_outright_is_judged_no_more(file):
    more = {"name": "no sockets", "groups": [{"name": "g", "why": "w", "calls": ["socket"]}]}
    both = load_profile(file(more))
    assert "socket" in both.refused()
    assert "socket" not in both.judged()


def test_operators_see_which_profile_is_in_force(file):
    ours, more = (describe(load_profile(path), "x86_64") for path in ("", file(MORE)))
    assert ours.startswith("glowplug 1: 65 refused, 6 judged")
    assert more.startswith("glowplug 1 + ours: 67 refused, 6 judged")
    assert ours[-13:] != more[-13:]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no profile"),
        ("[]", "is no profile"),
        ({"groups": []}, "missing required field `name`"),
        ({**MORE, "allow": ["mount"]}, "unknown field `allow`"),
        ({"name": "a\nb"}, "matching regex"),
        ({"name": "x", "groups": [{"name": "g", "why": "w", "calls": ["bfp"]}]}, "named bfp"),
        (
            {
                "name": "x",
                "groups": [{"name": "g", "why": "w", "error": "EINTR", "calls": ["bpf"]}],
            },
            "EINTR",
        ),
        ({"name": "x", "rules": [{"call": "kill", "why": "w", "argument": 1}]}, "one of refuse"),
        (
            {"name": "x", "rules": [{"call": "kill", "why": "w", "argument": 9, "refuse": ["9"]}]},
            "argument",
        ),
        (
            {"name": "x", "rules": [{"call": "ioctl", "why": "", "argument": 1, "refuse": ["-1"]}]},
            "matching regex",
        ),
        (
            {
                "name": "x",
                "rules": [
                    {
                        "call": "socket",
                        "why": "w",
                        "error": "EACCES",
                        "argument": 1,
                        "refuse": ["3"],
                    }
                ],
            },
            "different errors",
        ),
        (" " * (seccomp_files.FILE_BYTES_MAX + 1), "more than 256 KiB"),
    ],
)
def test_a_file_that_can_not_be_taken_says_why(file, content, words):
    with pytest.raises(ProfileError, match=words):
        load_profile(file(content))


def test_a_file_that_is_not_there_is_not_passed_over(tmp_path):
    with pytest.raises(ProfileError, match="can't be read"):
        load_profile(str(tmp_path / "gone.json"))


def test_our_file_is_what_it_is_decoded_to():
    text = json.loads(seccomp_files.OWN_FILE.read_text())
    again = msgspec.to_builtins(own_profile())
    assert [each["calls"] for each in again["groups"]] == [
        tuple(each["calls"]) for each in text["groups"]
    ]
