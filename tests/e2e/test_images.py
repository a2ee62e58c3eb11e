"""Three small images of the campaign (`just images`), the whole way: registry, platform, container, every path."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from images.campaign import compare, expected
from images.facts import differences
from images.recipes import DEBIAN, Recipe, from_dockerfile, odd
from images.workshop import Workshop, lacking
from tests.e2e.conftest import Running
from tests.support.python_tree import make_python_tree
from tests.support.real_registry import open_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "present"),
]

SAYS = "import of_the_image; print('ok')"


def python_only(shop: Workshop, name: str) -> None:
    """A Python and nothing else: what the others stand on here, instead of a Debian."""
    with shop.image(name, "scratch", "--env", "PATH=/opt/own/bin:/bin") as root:
        make_python_tree(root)
        root.chmod(0o755)


SMALL = (
    Recipe(DEBIAN, "a Python", python_only, SAYS),
    Recipe("odd", "odd names and modes", lambda shop, name: odd(shop, name, DEBIAN), SAYS),
    Recipe("dockerfile", "buildah", lambda shop, name: from_dockerfile(shop, name, DEBIAN), SAYS),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    shop = Workshop(tmp_path_factory.mktemp("workshop"), squeezed=False)
    yield shop
    shutil.rmtree(shop.root)


@pytest.fixture(scope="module")
def registry(shop: Workshop) -> Iterator[str]:
    with open_registry(shop.root / "registry") as host:
        yield host


@pytest.mark.parametrize("recipe", SMALL, ids=lambda recipe: recipe.about)
def test_every_path_in_a_container_is_what_umoci_unpacks(
    shop: Workshop, registry: str, platform: Running, recipe: Recipe
) -> None:
    if platform.http("GET", "/api/v1/workers").json()["workers"][0]["backend"] == "process":
        pytest.skip("containers have no root of their own here")
    recipe.make(shop, recipe.name)
    name = shop.push(recipe.name, registry)
    theirs = expected(shop, recipe.name, keep=False)
    found = compare(name, recipe, theirs, platform.data)
    assert found["said"] == "ok"
    assert found["differ"] == []
    # The comparison was of something, and would have told: little is hidden, and a changed path is seen.
    assert found["laid_over"] < len(theirs) // 10
    path = max(theirs)
    assert differences({**theirs, path: theirs[b""]}, theirs)
