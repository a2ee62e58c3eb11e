"""What lines of a requirements file do in a build: indexes, markers, hashes and variables, without a network."""

from __future__ import annotations

import hashlib
from pathlib import Path

from glowplug.requirements import read_requirements
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_worker.images import LocalImages

from tests.integration.imagecache.conftest import Ask
from tests.support.pretend_worker import PretendWorker
from tests.support.wheels import make_wheel


async def test_lines_of_a_file_mean_what_they_mean_to_pip(
    ask: Ask, worker: PretendWorker, images: LocalImages, tmp_path: Path
) -> None:
    wheel = make_wheel(tmp_path / "wheels")
    make_wheel(tmp_path / "wheels", "other")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tmp_path / "index.txt").write_text("--no-index\n--find-links ${WHEELS}\n")
    file = tmp_path / "requirements.txt"

    def spec(digest: str) -> ImageSpec:
        file.write_text(
            "# ours\n-r index.txt\n"
            f'tiny==1.0 ; python_version >= "3" \\\n    --hash=sha256:{digest}  # locked\n'
            'missing ; python_version < "3"\n'
        )
        pip = ImageStep(kind="pip", args=read_requirements(str(file)))
        return ImageSpec(steps=(pip,), env={"WHEELS": str(wheel.parent)})

    asked = await ask(spec(digest))
    assert asked.done.error is None, asked.output
    packages = (await images.ensure(asked.done.image_digest)).root / "site-packages"
    assert (packages / "tiny.py").read_text() == "VERSION = '1.0'\n"
    assert not (packages / "other.py").exists()
    compiled = list(packages.glob("__pycache__/tiny.*.pyc"))
    assert [path.read_bytes()[4] for path in compiled] == [1]  # trusted without its source
    wrong = await ask(spec("0" * 64))
    assert wrong.done.error is not None
    assert "Hash mismatch" in wrong.output
