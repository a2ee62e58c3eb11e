"""`glowplug image build`: a Dockerfile on an image of a registry, told as it goes; what fails, and making it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Running
from tests.e2e.test_from_registry import logins, registry, rooted
from tests.support.scripted_registry import ScriptedRegistry

__all__ = ["logins", "registry"]
DOCKERFILE = """FROM {base} AS made
COPY text /made/
FROM {base}
COPY --from=made /made/text /opt/
ENV KIND=mine
WORKDIR /opt
RUN read word < text && echo "read $word as $KIND" && echo said > /opt/said
CMD ["nothing"]
"""


def build(running: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glowplug.cli.main", "image", "build", *arguments],
        env=running.env(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_dockerfile_is_built_and_told(
    logins: Running, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    if not rooted(logins):
        pytest.skip("containers have no root of their own here")
    (tmp_path / "text").write_text("word\n")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(DOCKERFILE.format(base=f"{registry.host}/team/app:1"))
    with_login = (str(dockerfile), "--credentials", "login")
    first = build(logins, *with_login)
    assert first.returncode == 0, (first.stdout, first.stderr)
    assert "read word as mine" in first.stderr
    assert "line 8: CMD has no effect" in first.stderr
    again = build(logins, *with_login)
    assert again.stdout == first.stdout
    assert "(cached)" in again.stderr
    forced = build(logins, *with_login, "--force")
    assert "read word as mine" in forced.stderr
    assert "(cached)" not in forced.stderr
    dockerfile.write_text(f"FROM {registry.host}/team/app:1\nRUN echo last words; exit 7\n")
    broken = build(logins, *with_login, "--json")
    assert broken.returncode == 1
    told = json.loads(broken.stdout)
    assert (told["output"], "exit code 7" in told["error"]) == ("last words", True)


def test_a_name_of_a_file_is_built(platform: Running, tmp_path: Path) -> None:
    program = tmp_path / "its_image.py"
    program.write_text(
        "from glowplug import Image\nimage = Image().run_commands('echo made > made')\n"
    )
    done = build(platform, f"{program}:image", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["image_digest"]) == 64
    wrong = build(platform, f"{program}:other")
    assert wrong.returncode == 2
    assert "it has image" in wrong.stderr
    assert os.fspath(tmp_path) not in wrong.stderr.splitlines()[-1]
