"""What a function inside a container asks for another is what its program would have asked for."""

from __future__ import annotations

import msgspec
import pytest
from glowplug import Image, Secret, function
from glowplug.client.deploying import Packer
from glowplug.errors import NotYetSupportedError
from glowplug.inside.siblings import describe_sibling
from glowplug_contracts.messages.deployment import ImageSpec

OWN = {"spec": {"source": {"blob": "0" * 64}, "image": {}}}
IMAGES = [
    Image(python_version="3.11", python_packages=["a"], commands=["make"], env_vars={"A": "1"}),
    Image.from_registry("debian:12", credentials="login").apt_install("curl").run_commands("make"),
    Image(force_build=True).run_commands("date", force_build=True),
    Image().run_commands("fetch", secrets=[Secret("token", ["TOKEN"]), "other"]),
]


def work() -> None:
    """Do nothing."""


@pytest.mark.parametrize("image", IMAGES)
async def test_its_image_is_the_one_that_was_described(image: Image) -> None:
    asked = describe_sibling(OWN, function(image=image)(work))["image"]
    # Nothing of these is uploaded, so that no platform is needed to pack them.
    packed = await Packer(None).image_of(image)  # type: ignore[arg-type]
    assert msgspec.convert(asked, ImageSpec) == packed


def test_files_that_the_container_does_not_have_are_refused(tmp_path) -> None:
    image = Image().add_local_file(tmp_path / "file", "file")
    with pytest.raises(NotYetSupportedError, match="adds files"):
        describe_sibling(OWN, function(image=image)(work))
