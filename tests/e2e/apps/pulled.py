"""A function on an image of a registry, whose name is in the environment."""

import os

from glowplug import Image, Secret, function

image = Image.from_registry(
    os.environ.get("PULLED_IMAGE", "example.invalid/app:1"),
    credentials=Secret.from_name("login"),
    env_vars={"OWN": "the program's"},
)


@function(image=image)
def look(name: str) -> dict[str, str]:
    import sys
    from pathlib import Path

    import of_the_image

    held = Path(name).read_text()
    return {
        "prefix": sys.prefix,
        "module": of_the_image.NAME,
        "held": held,
        "said": os.environ["SAID"],
        "own": os.environ["OWN"],
    }
