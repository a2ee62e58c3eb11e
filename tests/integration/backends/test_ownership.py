"""Whose a container's files are: shifted into ids of its own, which no other container and no account has."""

from __future__ import annotations

import os
import pwd

import pytest
from glowplug_contracts.ids import ContainerId
from glowplug_worker.ports import Bind
from glowplug_worker.runtime.spec import IDS

from tests.support.containers import open_container

NOBODY = 65_534
CODE = """
def owner(path): return os.stat(path).st_uid
def opens(path, mode):
    try: open(path, mode).close(); return True
    except OSError: return False
open("/mine/below/new", "w").close()
say({
    "user": os.getuid(),
    "map": [list(map(int, line.split())) for line in open("/proc/self/uid_map")],
    "mine": [owner("/mine"), owner("/mine/below/old"), owner("/mine/below/new")],
    "old": open("/mine/below/old").read(),
    "writes": opens("/mine/below/old", "a"),
    "theirs": [owner("/theirs"), owner("/theirs/closed")],
    "peeks": opens("/theirs/closed", "r"),
    "shared": opens("/shared/new", "w"),
})
hear()
"""


def _binds(place):
    """What belongs to root on the host: to be handed over, to be shown, to be shared."""
    for name in ("mine/below", "theirs", "shared"):
        (place / name).mkdir(parents=True)
    (place / "mine/below/old").write_text("kept")
    (place / "theirs/closed").write_text("secret")
    for name, mode in (
        ("mine/below", 0o700),
        ("mine/below/old", 0o600),
        ("theirs/closed", 0o600),
        ("shared", 0o777),
    ):
        (place / name).chmod(mode)
    return (
        Bind(source=place / "mine", target="/mine", writable=True),
        Bind(source=place / "theirs", target="/theirs"),
        Bind(source=place / "shared", target="/shared", writable=True, shared=True),
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has ids to give")
async def test_what_a_container_may_write_is_its_own_and_of_nobody_else(backend, tmp_path):
    if not backend.mounts:
        pytest.skip("the process backend has no root of its own")
    first, second = tmp_path / "first", tmp_path / "second"
    binds = [_binds(place) for place in (first, second)]
    ids = [ContainerId(f"ctr_{os.getpid()}x{n}") for n in range(2)]
    async with (
        open_container(backend, first / "c", CODE, binds=binds[0], container_id=ids[0]) as one,
        open_container(backend, second / "c", CODE, binds=binds[1], container_id=ids[1]) as two,
    ):
        seen = [await one.said(), await two.said()]
        hosts = [os.stat(place / "mine/below/new").st_uid for place in (first, second)]  # noqa: PTH116
    for inside, place, uid in zip(seen, (first, second), hosts, strict=True):
        assert inside["user"] == 1000
        assert inside["mine"] == [1000] * 3
        assert (inside["old"], inside["writes"], inside["peeks"]) == ("kept", True, False)
        assert inside["theirs"] == [NOBODY] * 2
        assert inside["shared"]
        assert (place / "shared/new").stat().st_uid == uid
        kept = [(place / name).stat().st_uid for name in ("theirs", "theirs/closed", "shared")]
        assert kept == [0, 0, 0]
        with pytest.raises(KeyError):
            pwd.getpwuid(uid)
    assert hosts[0] != hosts[1]
    if backend.name == "oci":
        spans = [inside["map"] for inside in seen]
        assert all(len(span) == 1 and span[0][0] == 0 and span[0][2] == IDS for span in spans)
        starts = sorted(span[0][1] for span in spans)
        assert starts[0] > 0
        assert starts[1] - starts[0] >= IDS
        assert hosts == [span[0][1] + 1000 for span in spans]
