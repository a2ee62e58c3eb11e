"""Steps that change the root of an image of a registry: inside real containers, stored as changes of its tree."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_runtime.service import Shell
from glowplug_worker.images.kit import find_uv

from tests.integration.imagecache.conftest import Ask
from tests.integration.imagecache.test_builds_on_a_worker import real_worker, run
from tests.support.builders_images import open_worker_images
from tests.support.python_tree import VERSION, make_python_tree
from tests.support.scripted_registry import ScriptedRegistry, open_scripted

__all__ = ["real_worker"]
pytestmark = pytest.mark.parametrize("real_worker", ["bwrap"], indirect=True)
CHANGES = """
set -e
test $(id -u) = 0
echo new > /etc/new
chown 33:34 /etc/new
chmod 4711 /etc/new
rm /etc/old
rm -r /srv/emptied
mkdir /srv/emptied
echo fresh > /srv/emptied/fresh
ln /etc/new /etc/newer
ln -s /etc/new /etc/link
mv /srv/moved /srv/there
echo in the layer > beside
"""


def an_image(root: Path) -> bytes:
    """Return a layer with a root that has things to change."""
    for name, text in (
        ("etc/old", "goes"),
        ("srv/emptied/below/old", "goes, too"),
        ("srv/moved/kept", "stays"),
        ("usr/share/large", "as it was\n" * 10_000),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, ".")
    return buffer.getvalue()


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[ScriptedRegistry]:
    programs = ("id", "chown", "chmod", "rm", "mkdir", "ln", "mv", "cat", "touch", "sleep")
    root = make_python_tree(tmp_path / "tree", needed_by=[find_uv()], programs=programs)
    root.chmod(0o755)
    async with open_scripted() as registry:
        config = {"config": {"Env": ["PATH=/opt/own/bin:/bin"]}}
        registry.add_image(an_image(root), config=config)
        yield registry


async def test_a_step_changes_the_root_and_only_the_changes_are_stored(
    ask: Ask, real_worker: Shell, imagecache: Shell, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    base = f"{registry.host}/app:1"
    asked = await ask(
        ImageSpec(base=base, steps=(run(CHANGES), run("cat /etc/new; test ! -e /etc/old")))
    )
    assert asked.done.error is None, (asked.done.error, asked.output)
    assert asked.done.base_python == VERSION
    async with open_worker_images(tmp_path / "other", imagecache.url) as images:
        image = await images.ensure(asked.done.image_digest)
        assert image.base is not None
        root = image.base.root
        facts = (root / "etc/new").stat()
        kept = (33, 34) if os.geteuid() == 0 else (os.getuid(), os.getgid())
        assert (facts.st_uid, facts.st_gid) == kept
        assert stat.S_IMODE(facts.st_mode) & 0o777 == 0o711
        assert (root / "etc/newer").stat().st_ino == facts.st_ino
        assert str((root / "etc/link").readlink()) == "/etc/new"
        assert not (root / "etc/old").exists()
        assert [each.name for each in (root / "srv/emptied").iterdir()] == ["fresh"]
        assert (root / "srv/there/kept").read_text() == "stays"
        assert not (root / "srv/moved").exists()
        assert (root / "usr/share/large").read_text() == "as it was\n" * 10_000
        assert (image.root / "beside").read_text() == "in the layer\n"
        left = {"glowplug", "layer", "proc", "dev", "sys"} & {each.name for each in root.iterdir()}
        assert not left
        assert not (root / "etc/resolv.conf").exists()
    # The services above are slow to start, so what else builds on the same image is tried with them.
    await each_step_is_cached_and_the_next_goes_on_from_it(ask, base)
    await the_python_may_come_from_a_step(ask, base)
    await root_of_a_build_has_no_power_over_the_host(ask, base)


async def each_step_is_cached_and_the_next_goes_on_from_it(ask: Ask, base: str) -> None:
    one = run("echo one > /etc/one")
    broken = await ask(ImageSpec(base=base, steps=(one, run("echo told; exit 3"))))
    error = broken.done.error
    assert error is not None
    assert error.code == "image.build_failed"
    assert error.details["last_lines"] == ["told"]
    again = await ask(ImageSpec(base=base, steps=(one, run("cat /etc/one"))))
    assert [cached for _, cached in again.steps] == [True, True, False]
    assert again.done.error is None, again.output
    assert "one\n" in again.output


async def root_of_a_build_has_no_power_over_the_host(ask: Ask, base: str) -> None:
    tries = """
python3 - <<'END'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print("mount", libc.mount(b"none", b"/mnt", b"tmpfs", 0, None))
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/glowplug/host/usr/new"):
    try:
        open(path, "w").write("x")
        print(path, "written")
    except OSError:
        pass
try:
    os.mknod("/etc/disk", 0o60644, os.makedev(254, 0))
    print("device made")
except OSError:
    pass
status = open("/proc/self/status").read()
print([line for line in status.splitlines() if line.startswith(("NoNewPrivs", "Seccomp:"))])
print("first", open("/proc/1/comm").read() if os.path.exists("/proc/1/comm") else "hidden")
print("others", sorted(int(each) for each in os.listdir("/proc") if each.isdigit())[-1] < 1000)
END
"""
    asked = await ask(ImageSpec(base=base, steps=(run(tries),)))
    assert asked.done.error is None, (asked.done.error, asked.output)
    assert "mount -1" in asked.output
    assert "written" not in asked.output
    assert "device made" not in asked.output
    assert "['NoNewPrivs:\\t1', 'Seccomp:\\t2']" in asked.output
    assert "others True" in asked.output


async def the_python_may_come_from_a_step(ask: Ask, base: str) -> None:
    hidden = run("mv /opt/own/bin/python3 /opt/own/bin/it; mv /opt/own/bin/python* /opt/own/")
    back = run("mv /opt/own/python* /opt/own/bin/; mv /opt/own/bin/it /opt/own/bin/python3")
    without = await ask(ImageSpec(base=base, steps=(hidden,)))
    assert without.done.error is not None
    assert without.done.error.code == "image.unsupported"
    assert "no Python" in without.done.error.message
    with_it = await ask(ImageSpec(base=base, steps=(hidden, back, run("python3 -c 'print(6*7)'"))))
    assert with_it.done.error is None, (with_it.done.error, with_it.output)
    assert with_it.done.base_python == VERSION
    assert "42" in with_it.output
    packages = ImageStep(kind="pip", args=("cowsay==6.1",))
    none = await ask(ImageSpec(base=base, steps=(hidden, packages)))
    assert none.done.error is not None
    assert "no Python to install packages for" in none.output
