"""`Secret`: values that containers get as environment variables, and nobody else ever sees.

A secret is made with `glowplug secret create`; a program only names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from glowplug.asked import check_shared_name

_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


class Secret:
    """A secret by its name.

    Args:
        name: as `glowplug secret create` was given it.
        required_keys: variables that it must hold; deploying fails with a sentence if one is missing.
    """

    def __init__(self, name: str, required_keys: Iterable[str] = ()) -> None:
        self.name = check_shared_name("Secret", name)
        if isinstance(required_keys, str):
            raise TypeError(f"required_keys={required_keys!r}: give a list of names")
        self.required_keys = tuple(required_keys)
        for key in self.required_keys:
            if not isinstance(key, str) or not _VARIABLE.match(key):
                raise ValueError(f"required_keys: {key!r} is no name of an environment variable")

    @classmethod
    def from_name(cls, name: str, *, required_keys: Iterable[str] = ()) -> Secret:
        """Return the secret of this name; nothing is asked before it is deployed."""
        return cls(name, required_keys)

    def __repr__(self) -> str:
        return f"<glowplug Secret {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (other.name, other.required_keys) == (
            self.name,
            self.required_keys,
        )

    def __hash__(self) -> int:
        return hash((self.name, self.required_keys))


def parse_secrets(given: Sequence[Secret | str] | None) -> tuple[Secret, ...]:
    """Return what a decorator's `secrets=` means. Raises: TypeError, ValueError."""
    if given is None:
        return ()
    if isinstance(given, str | Secret) or not isinstance(given, Sequence):
        raise TypeError(f"secrets={given!r}: give a list of names or Secrets")
    found = tuple(one if isinstance(one, Secret) else Secret(one) for one in given)
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ValueError("secrets: one is named twice")
    return found
