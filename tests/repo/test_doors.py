"""The doors between the rooms, as .importlinter has them, and that it forgets nobody."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

from tests.repo.tree import MEMBERS, ROOT, assert_none, module_name, package, product

LINT = str(Path(sys.executable).with_name("lint-imports"))


def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter", encoding="utf-8")
    return parser


def listed(section: str, key: str) -> set[str]:
    return set(config()[section][key].split())


def says_pure(doc: str) -> bool:
    """Return whether a module's docstring calls the module pure."""
    return bool(
        re.search(r"\bPure[.:;,]|\ba pure (machine|function)|\bare pure\b|\bis pure\b", doc)
    )


def test_the_doors_are_kept() -> None:
    done = subprocess.run(
        [LINT, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_linter_notices_a_forbidden_door(tmp_path: Path) -> None:
    name = "glowplug_machine"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("import time\n")
    (tmp_path / ".importlinter").write_text(
        f"[importlinter]\nroot_package = {name}\ninclude_external_packages = True\n"
        f"[importlinter:contract:pure]\nname = pure\ntype = forbidden\n"
        f"source_modules =\n    {name}\nforbidden_modules =\n    time\n"
    )
    done = subprocess.run(
        [LINT, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "BROKEN" in done.stdout


def test_every_package_is_watched() -> None:
    assert listed("importlinter", "root_packages") == {package(member) for member in MEMBERS}


def test_every_module_that_calls_itself_pure_is_watched() -> None:
    services = [s for s in product() if s.path.startswith("services/")]
    claim = {module_name(s.path) for s in services if says_pure(ast.get_docstring(s.tree) or "")}
    watched = listed("importlinter:contract:pure", "source_modules")
    assert_none(claim - watched)
    assert watched - {module_name(s.path) for s in product()} == set()
