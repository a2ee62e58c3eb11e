"""Whatever is asked for, the specification of a container stays within its bounds; so does its filter."""

from __future__ import annotations

import errno
import json
import struct
from typing import Any

import pytest
from glowplug_worker.runtime import seccomp, seccomp_files
from glowplug_worker.runtime.seccomp_files import own_profile
from glowplug_worker.runtime.seccomp_profile import oci_profile, others
from glowplug_worker.runtime.seccomp_rules import (
    Group,
    Profile,
    ProfileError,
    Rule,
    Where,
    check_profile,
    stricter,
)
from glowplug_worker.runtime.spec import IDS, Mount, Needs, Tmpfs, build_root, build_spec
from hypothesis import given, settings
from hypothesis import strategies as st

parts = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=12)
paths = st.lists(parts, min_size=1, max_size=4).map(lambda each: "/" + "/".join(each))
mounts = st.builds(
    Mount, source=paths, target=paths, writable=st.booleans(), directory=st.booleans()
)
texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
wants = st.builds(
    Needs,
    argv=st.lists(texts, min_size=1, max_size=4).map(tuple),
    env=st.dictionaries(parts, texts, max_size=4),
    cwd=paths,
    hostname=parts,
    root=st.just("/mnt/root"),
    first_id=st.integers(0x6800_0000, 0x7000_0000),
    user=st.just(1000),
    mounts=st.lists(mounts, max_size=5).map(tuple),
    tmpfs=st.just((Tmpfs(target="/tmp", size_bytes=1 << 20),)),
    links=st.just((("/lib", "usr/lib"),)),
    own_network=st.booleans(),
    seccomp=st.none(),
    annotations=st.just({}),
)


def _made(needs: Needs) -> dict[str, Any] | None:
    try:
        spec = build_spec(needs)
    except ValueError:
        return None
    return json.loads(json.dumps(spec))


@given(wants)
def test_whatever_is_asked_for_the_container_stays_one(needs: Needs) -> None:
    spec = _made(needs)
    if spec is None:
        return
    process, linux = spec["process"], spec["linux"]
    assert process["noNewPrivileges"] is True
    assert process["terminal"] is False
    assert set(map(tuple, process["capabilities"].values())) == {()}
    assert process["user"]["uid"] == process["user"]["gid"] == 1000
    assert spec["root"]["readonly"] is True
    assert "hooks" not in spec
    kinds = {each["type"] for each in linux["namespaces"]}
    assert {"pid", "ipc", "uts", "mount", "user", "cgroup"} <= kinds
    assert ("network" in kinds) == needs.own_network
    assert all("path" not in each for each in linux["namespaces"])
    (ids,) = linux["uidMappings"]
    assert ids == {"containerID": 0, "hostID": needs.first_id, "size": IDS}
    assert linux["gidMappings"] == [ids]
    assert "/proc/sys" in linux["readonlyPaths"]
    for mount in spec["mounts"]:
        assert "nosuid" in mount["options"]
        assert ".." not in mount["destination"].split("/")
        if mount["type"] == "bind":
            assert "nodev" in mount["options"]
            assert not mount["destination"].startswith("/proc/")
    binds = [mount for mount in spec["mounts"] if mount["type"] == "bind"]
    for mount, asked in zip(binds, needs.mounts, strict=True):
        assert (mount["source"], mount["destination"]) == (asked.source, asked.target)
        assert ("ro" in mount["options"]) == (not asked.writable)


@given(wants)
def test_every_mount_finds_its_place_in_the_empty_root(needs: Needs) -> None:
    if _made(needs) is None:
        return
    root = build_root(needs)
    places = {*root.directories, *root.files, *(path for path, _ in root.links)}
    for mount in needs.mounts:
        assert mount.target in places
    assert "/" not in places


@pytest.mark.parametrize(
    "path", ["", "tmp", "/", "/a/../b", "/proc/self/fd/7", "/proc", "/sys/fs", "/a\0b"]
)
def test_what_is_no_place_for_files_is_refused(path: str) -> None:
    needs = Needs(
        argv=("x",),
        env={},
        cwd="/tmp",
        hostname="h",
        root="/mnt/root",
        first_id=1 << 20,
        user=1000,
        mounts=(),
    )
    for changed in ({"cwd": path}, {"mounts": (Mount(source="/s", target=path),)}):
        with pytest.raises(ValueError, match=r"path|place"):
            build_spec(Needs(**{**_fields(needs), **changed}))


def _fields(needs: Needs) -> dict[str, Any]:
    return {name: getattr(needs, name) for name in needs.__struct_fields__}


# -- the filter says the same in both languages ----------------------------------------------------

WORDS = st.integers(0, (1 << 32) - 1) | st.sampled_from(
    [
        0,
        1,
        2,
        8,
        10,
        16,
        38,
        0x80,
        0x20000,
        0x20008,
        0x40000,
        0x10000000,
        0x5412,
        0x541C,
        0xFFFFFFFF,
    ]
)
LONGS = st.builds(lambda high, low: high << 32 | low, st.sampled_from([0, 1, 1 << 31]), WORDS)


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=5), WORDS)
def test_others_are_all_but_the_values_and_each_once(values: list[int], number: int) -> None:
    for tried in (number, *values):
        matching = [pattern for pattern in others(values) if tried & pattern[0] == pattern[1]]
        assert len(matching) == (0 if tried in values else 1)


# Calls of each kind: refused, judged, known to few, ordinary.
CALLS = ("mount", "clone", "socket", "ioctl", "personality", "mseal", "getppid", "kill")
TOLD = st.sampled_from(["EPERM", "EACCES"])
VALUES = st.sampled_from(["0", "1", "0x10", "0x5412", "0xffffffff"])
SOME = st.lists(VALUES, min_size=1, max_size=2).map(tuple)
WAYS = st.one_of(
    st.fixed_dictionaries({"refuse": SOME}),
    st.fixed_dictionaries({"allow_only": SOME}),
    st.fixed_dictionaries({"refuse_bits": VALUES}),
)
RULES = st.builds(
    lambda call, error, argument, where, way: Rule(
        call=call, why="", error=error, argument=argument, where=where, **way
    ),
    st.sampled_from(CALLS),
    TOLD,
    st.integers(0, 1),
    st.none() | st.builds(Where, argument=st.integers(0, 1), value=VALUES),
    WAYS,
)
GROUPS = st.builds(
    Group,
    name=st.just("g"),
    why=st.just(""),
    error=TOLD,
    calls=st.lists(st.sampled_from(CALLS), max_size=2).map(tuple),
)
PROFILES = st.builds(
    Profile,
    name=st.just("more"),
    groups=st.lists(GROUPS, max_size=2).map(tuple),
    rules=st.lists(RULES, max_size=3).map(tuple),
)


@pytest.mark.parametrize("machine", sorted(seccomp.ARCHITECTURES))
@given(data=st.data(), first=LONGS, second=LONGS, third=LONGS)
def test_both_filters_decide_alike(
    machine: str, data: Any, first: int, second: int, third: int
) -> None:
    known = seccomp_files.numbers(machine)
    judged = sorted(own_profile().judged())
    name = data.draw(st.sampled_from([*sorted(known), *judged * 50]))
    profile = own_profile()
    program = _run_program(profile, machine, known[name], first, second, third)
    assert _run_profile(profile, machine, name, first, second, third) == program


@settings(max_examples=60)
@given(data=st.data(), more=PROFILES, first=LONGS, second=LONGS)
def test_whatever_is_added_refuses_more_and_both_filters_still_agree(
    data: Any, more: Profile, first: int, second: int
) -> None:
    machine, known = "x86_64", seccomp_files.numbers("x86_64")
    both = stricter(own_profile(), more)
    try:
        check_profile(both, known)
    except ProfileError:
        return
    for name in data.draw(st.lists(st.sampled_from(CALLS), max_size=3)):
        alone = _run_program(own_profile(), machine, known[name], first, second, 0)
        added = _run_program(more, machine, known[name], first, second, 0)
        found = _run_program(both, machine, known[name], first, second, 0)
        assert bool(found) == bool(alone or added)
        assert _run_profile(both, machine, name, first, second, 0) == found


def _run_profile(profile: Profile, machine: str, name: str, *arguments: int) -> int:
    decisions = set()
    for rule in oci_profile(profile, machine, seccomp_files.numbers(machine))["syscalls"]:
        if name in rule["names"] and all(
            arguments[each["index"]] & each["value"] == each["valueTwo"]
            for each in rule.get("args", ())
        ):
            decisions.add(rule["errnoRet"])
    assert len(decisions) <= 1
    return decisions.pop() if decisions else 0


def _run_program(profile: Profile, machine: str, number: int, *arguments: int) -> int:
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, seccomp.ARCHITECTURES[machine], 0, *padded)
    code = list(
        struct.iter_unpack(
            "=HBBI", seccomp.program(profile, machine, seccomp_files.numbers(machine))
        )
    )
    accumulator, at = 0, 0
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        if kind == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif kind == 0x06:
            assert value == 0x7FFF0000 or value & 0xFFFF0000 == 0x00050000
            errors = {errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EACCES}
            assert value & 0xFFFF in errors or value == 0x7FFF0000
            return value & 0xFFFF if value != 0x7FFF0000 else 0
        else:
            true = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: accumulator & value != 0,
            }[kind]
            at += if_true if true else if_false
