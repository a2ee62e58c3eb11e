"""Plans and first frames: the same container with and without a root of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from glowplug_contracts.messages.container import ContainerKind
from glowplug_worker.images.kit import BuildKit
from glowplug_worker.launch import Brought, init_for, lay_out, plan_start
from glowplug_worker.ports import Bind, Interpreter, LocalImage

from tests.support.builders_worker import a_binding

PYTHON = Interpreter(version="3.11.2", executable=Path("/opt/py/bin/python3"), prefix=Path("/opt"))
IMAGE = LocalImage(root=Path("/data/images/d/layer"), env={"A": "image", "B": "image"})


@pytest.fixture
def sdk(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "sdk").mkdir()
    (tmp_path / "sdk" / "glowplug").symlink_to(tmp_path / "package")
    return tmp_path / "sdk"


def made(sdk: Path, brought: Brought, *, mounts: bool, binding: Any = None) -> tuple[Any, Any]:
    binding = binding or a_binding(env={"B": "user"})
    scratch = Path("/data/ctr/scratch")
    places = lay_out(brought, sdk=sdk, scratch=scratch, mounts=mounts)
    plan = plan_start(binding, brought, places, scratch=scratch, fds=(7, 9))
    return plan, init_for(binding, brought, places, plan.env)


def test_with_mounts_everything_has_its_fixed_place(sdk: Path) -> None:
    brought = Brought(interpreter=PYTHON, image=IMAGE, source=Path("/data/sources/s"))
    plan, init = made(sdk, brought, mounts=True)
    boot = "/glowplug/sdk/glowplug/runner/boot.py"
    assert plan.command(plan.fds) == ("/opt/py/bin/python3", "-I", "-S", boot, "--fds", "7,9")
    assert plan.command((3, 4)) == ("/opt/py/bin/python3", "-I", "-S", boot, "--fds", "3,4")
    assert {bind.target: (bind.source, bind.writable) for bind in plan.binds} == {
        "/glowplug/sdk/glowplug": ((sdk / "glowplug").resolve(), False),
        "/layer": (IMAGE.root, False),
        "/app": (Path("/data/sources/s"), False),
    }
    assert (plan.cwd, init.source, init.layer) == ("/app", "/app", "/layer")
    assert plan.env["PATH"].startswith("/layer/bin:/opt/py/bin:")
    assert plan.env["PYTHONPATH"] == "/layer/site-packages"
    assert (plan.env["A"], plan.env["B"], plan.env["HOME"]) == ("image", "user", "/tmp")


def test_without_mounts_everything_is_seen_where_it_lies(sdk: Path) -> None:
    brought = Brought(interpreter=PYTHON, image=IMAGE, source=Path("/data/sources/s"))
    plan, init = made(sdk, brought, mounts=False)
    assert plan.argv[3] == f"{sdk}/glowplug/runner/boot.py"
    assert (plan.cwd, init.source, init.layer) == (
        "/data/sources/s",
        "/data/sources/s",
        str(IMAGE.root),
    )
    assert plan.env["HOME"] == "/data/ctr/scratch"


def test_a_bare_container_starts_in_its_own_tmp(sdk: Path) -> None:
    plan, init = made(sdk, Brought(interpreter=PYTHON), mounts=True)
    assert (plan.cwd, init.source, init.layer) == ("/tmp", "", "")
    assert "GLOWPLUG_LAYER" not in plan.env
    assert "PYTHONPATH" not in plan.env


def test_a_build_gets_its_kit_instead_of_the_image(sdk: Path) -> None:
    kit = BuildKit(
        binds=(Bind(source=Path("/c/layer"), target="/layer", writable=True),),
        env={"GLOWPLUG_UV": "/glowplug/bin/uv", "A": "kit"},
    )
    brought = Brought(interpreter=PYTHON, image=IMAGE, needs=kit)
    binding = a_binding(kind=ContainerKind.BUILD, source=None)
    plan, init = made(sdk, brought, mounts=True, binding=binding)
    assert kit.binds[0] in plan.binds
    assert not any(bind.source == IMAGE.root for bind in plan.binds)
    assert plan.env["GLOWPLUG_UV"] == "/glowplug/bin/uv"
    assert "PYTHONPATH" not in plan.env  # its steps say where they look for packages
    assert init.mode == "session"


def test_only_bound_real_gpus_are_visible(sdk: Path) -> None:
    base = a_binding()
    for gpu_ids, visible in (((), ""), (("GPU-1",), "GPU-1"), (("simulated-A10G-0",), "")):
        binding = base.__class__(
            container_id=base.container_id, generation=1, spec=base.spec, gpu_ids=gpu_ids
        )
        plan, _ = made(sdk, Brought(interpreter=PYTHON), mounts=True, binding=binding)
        assert plan.env["CUDA_VISIBLE_DEVICES"] == visible
        assert plan.env["GLOWPLUG_GPUS"] == ",".join(gpu_ids)


def test_the_first_frame_announces_code_that_comes_by_value(sdk: Path) -> None:
    brought = Brought(interpreter=PYTHON, pickled=b"123", on_start_pickled=b"45678")
    _, init = made(sdk, brought, mounts=True)
    assert (init.pickled, init.on_start_pickled, init.mode) == (3, 5, "function")
