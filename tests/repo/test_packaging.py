"""The workspace: one version, every member listed everywhere, every third-party version pinned."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest

from tests.repo.tree import (
    MEMBERS,
    ROOT,
    SERVICES,
    distribution,
    files,
    manifest,
    package,
    read,
    requirement_name,
)

ROOT_PROJECT = tomllib.loads(read("pyproject.toml"))


def test_all_versions_are_equal() -> None:
    versions = {member: manifest(member)["project"]["version"] for member in MEMBERS}
    assert set(versions.values()) == {ROOT_PROJECT["project"]["version"]}, versions


def test_every_folder_with_a_manifest_is_a_member() -> None:
    found = {
        path.removesuffix("/pyproject.toml") for path in files() if path.endswith("/pyproject.toml")
    }
    assert found - {p for p in found if p.startswith(("examples/", "tests/"))} == set(MEMBERS)


def test_the_root_names_every_member_twice() -> None:
    names = {distribution(member) for member in MEMBERS}
    required = {requirement_name(one) for one in ROOT_PROJECT["project"]["dependencies"]}
    assert names <= required
    assert names == set(ROOT_PROJECT["tool"]["uv"]["sources"])
    for member in MEMBERS:
        line = re.compile(rf"{distribution(member)} +@ {{root:uri}}/{member}$")
        assert any(line.match(one) for one in ROOT_PROJECT["project"]["dependencies"]), member


def test_the_list_of_the_checkout_names_every_member() -> None:
    lines = read("dev.txt").splitlines()
    assert {line for line in lines if line.startswith("-e ")} == {f"-e ./{m}" for m in MEMBERS}


def test_every_third_party_version_is_pinned() -> None:
    pins = {requirement_name(line) for line in read("constraints.txt").splitlines() if "==" in line}
    wanted = {requirement_name(line) for line in read("dev.txt").splitlines() if line[:1].isalpha()}
    projects = [ROOT_PROJECT["project"], *(manifest(member)["project"] for member in MEMBERS)]
    for project in projects:
        wanted |= {requirement_name(one) for one in project.get("dependencies", [])}
        for extra in project.get("optional-dependencies", {}).values():
            wanted |= {requirement_name(one) for one in extra}
    assert wanted - pins - {distribution(member) for member in MEMBERS} == set()


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_is_typed_and_described(member: str) -> None:
    assert (ROOT / member / package(member) / "py.typed").exists()
    project = manifest(member)["project"]
    assert project["requires-python"] == ROOT_PROJECT["project"]["requires-python"]
    assert project["license"] == "Apache-2.0"
    assert (ROOT / member / project["readme"]).exists()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_one_name_in_every_layer(service: str) -> None:
    member = f"services/{service}"
    assert distribution(member) == f"glowplug-{service}"
    assert package(member) == f"glowplug_{service}"
    scripts = manifest(member)["project"]["scripts"]
    assert scripts == {f"glowplug-{service}": f"glowplug_{service}.__main__:main"}
    main = ast.parse(read(f"{member}/glowplug_{service}/__main__.py"))
    assert "main" in {node.name for node in main.body if isinstance(node, ast.FunctionDef)}


def test_no_member_names_another_by_path() -> None:
    # A member must be installable from an index or from wheels: by name only.
    for member in MEMBERS:
        assert not [one for one in manifest(member)["project"]["dependencies"] if "@" in one], (
            member
        )
