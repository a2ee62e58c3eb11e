"""Building an image of packages, against `pip install` of the same ones into a plain virtual environment.

Ours is what a user does, `glowplug deploy` of a function with `python_packages`: from the command's start until the
image is stored, its packages with bytecode. pip compiles too, and keeps no cache; ours has a platform of its own
in every round, so nothing is known. The second pair adds a package to what is there: ours finds the packages that
it has on the worker, pip has its own cache. Both ask whatever index this environment's pip asks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import (
    Side,
    a_directory,
    a_platform,
    an_app,
    apart,
    arguments,
    show,
    timed,
    verdict,
)

PACKAGES = ("numpy", "pandas", "scikit-learn", "requests", "pydantic")
QUICK = ("requests", "pydantic")
MORE = "pyyaml"
PROMISE = 1.0
OURS, PEER = "image, nothing known", "pip install --no-cache-dir"
OURS_MORE, PEER_MORE = "image with one package more", "pip install, cached, one more"
APP = """
from glowplug import Image, function

@function(image=Image(python_packages=PACKAGES))
def hello() -> str:
    return "hello"
"""


def main() -> int:
    options = arguments(__doc__)
    packages = QUICK if options.quick else PACKAGES
    sides = {name: Side(name) for name in (OURS, PEER, OURS_MORE, PEER_MORE)}
    with apart() as how:
        for _ in range(options.rounds):
            with a_platform():
                sides[OURS].samples.append(timed(lambda: deploy(packages)))
                sides[OURS_MORE].samples.append(timed(lambda: deploy((*packages, MORE))))
            cache = a_directory("pip-cache")
            uncached = plain_venv()
            sides[PEER].samples.append(
                timed(lambda venv=uncached: pip(venv, "--no-cache-dir", *packages))
            )
            pip(plain_venv(), "--cache-dir", str(cache), *packages)
            cached = plain_venv()
            sides[PEER_MORE].samples.append(
                timed(
                    lambda venv=cached, cache=cache: pip(
                        venv, "--cache-dir", str(cache), *packages, MORE
                    )
                )
            )
            for folder in (cache, uncached, cached):
                shutil.rmtree(folder, ignore_errors=True)
    print(how)
    print(f"packages: {', '.join(packages)}; then {MORE} too")
    failed = 0
    for ours, peer in ((OURS, PEER), (OURS_MORE, PEER_MORE)):
        show({name: sides[name] for name in (ours, peer)}, peer)
        ratio = sides[ours].p50 / sides[peer].p50
        failed |= verdict(
            f"an image ({ours}) is built in at most {PROMISE} times the time of {peer}",
            ratio <= PROMISE,
            {"ratio": round(ratio, 2), "p50_s": round(sides[ours].p50, 2)},
        )
    return failed


def deploy(packages: tuple[str, ...]) -> None:
    file = an_app(APP.replace("PACKAGES", repr(list(packages))))
    run(sys.executable, "-m", "glowplug.cli.main", "deploy", f"{file}:hello")


def plain_venv() -> Path:
    folder = a_directory("venv")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    return folder


def pip(venv: Path, *options: str) -> None:
    """Install with the pip that is on the way; one in each environment would take longer and compile the same."""
    program = shutil.which("pip") or sys.exit("pip is not installed")
    run(program, "-q", "--python", str(venv / "bin/python"), "install", *options)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        sys.exit(f"{' '.join(command[:5])}: {done.stdout[-1500:]}{done.stderr[-1500:]}")


if __name__ == "__main__":
    sys.exit(main())
