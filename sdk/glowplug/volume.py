"""`Volume`: a directory that containers share, mounted where a function says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glowplug.asked import check_shared_name
from glowplug.errors import NotYetSupportedError
from glowplug.remote import is_remote
from glowplug.twins import blocking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from glowplug.model import Model


class Volume:
    """A volume by its name, and where a function sees it.

    Args:
        name: 1 to 63 letters, digits, '-' or '_'. Deploying makes the volume if it is not there yet.
        mount_path: an absolute path of its own, such as "/data".
        read_only: the function can't write to it.
    """

    def __init__(self, name: str, mount_path: str, *, read_only: bool = False) -> None:
        self.name = check_shared_name("Volume", name)
        if not isinstance(mount_path, str):
            raise TypeError(f'mount_path={mount_path!r}: give text such as "/data"')
        if not mount_path.startswith("/"):
            raise NotYetSupportedError(
                f"Volume(mount_path={mount_path!r}) is not yet supported; give an absolute path such as "
                "/data"
            )
        if not isinstance(read_only, bool):
            raise TypeError(f"read_only={read_only!r}: give True or False")
        self.mount_path = mount_path.rstrip("/") or "/"
        self.read_only = read_only

    @property
    def path(self) -> Path:
        """Where the volume is in this container: `mount_path`, or elsewhere if it can't be mounted there."""
        from glowplug.client.profile import volume_places  # noqa: PLC0415 - where it is needed

        places = volume_places()
        if is_remote() or self.name in places:  # in a sandbox, only the environment says so
            return Path(places.get(self.name, self.mount_path))
        raise RuntimeError(
            f"volume {self.name} is seen inside containers; outside, `glowplug volume ls {self.name}` and "
            "`glowplug volume cp` reach it"
        )

    @blocking
    async def snapshot(self, name: str, path: str = "") -> Model:
        """Store what the volume holds now as the latest version of a model, which never changes; return the model.

        Args:
            name: the model's.
            path: a folder in the volume; "" = all of it.

        Raises: NotFoundError, InvalidInputError naming what no model may have, UnavailableError where somebody
            writes to it meanwhile.
        """
        from glowplug.model import Model  # noqa: PLC0415 - where it is needed

        model = Model(name)
        inner = path.strip("/")
        await model.pull.aio(f"volume:{self.name}/{inner}" if inner else f"volume:{self.name}")
        return model

    def __repr__(self) -> str:
        return f"<glowplug Volume {self.name} at {self.mount_path}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Volume) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def _all(self) -> tuple[str, str, bool]:
        return self.name, self.mount_path, self.read_only


def parse_volumes(given: Sequence[Volume] | None) -> tuple[Volume, ...]:
    """Return what a decorator's `volumes=` means. Raises: TypeError, ValueError."""
    if given is None:
        return ()
    if isinstance(given, str | Volume) or not isinstance(given, Sequence):
        raise TypeError(f"volumes={given!r}: give a list of Volumes")
    for one in given:
        if not isinstance(one, Volume):
            raise TypeError(f'volumes: {one!r} is no Volume("name", "/path")')
    if len({one.mount_path for one in given}) < len(given):
        raise ValueError("volumes: two are at one path")
    return tuple(given)
