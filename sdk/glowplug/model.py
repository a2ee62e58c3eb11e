"""`Model`: weights under a name, stored once, mounted read-only where a function says.

Naming one costs nothing. What is given a folder of this machine is uploaded when it is deployed, and only what
the platform lacks of it travels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glowplug.asked import check_shared_name
from glowplug.errors import NotYetSupportedError
from glowplug.remote import is_remote
from glowplug.twins import blocking

# Where a model is seen that nothing else was said of.
PLACE = "/models"
_VERSION = re.compile(r"^[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class ModelStatus:
    """What the platform says about a model.

    Attributes:
        state: "pending", "pulling", "ready" or "failed", of the last pull.
        progress: of the pull, 0 to 1.
        digest: the version that containers get which start now; "" = there is none yet.
        bytes, files: of that version.
        versions: digests, the latest first.
        error: why the last pull failed; "" otherwise.
    """

    name: str
    state: str
    progress: float
    digest: str
    bytes: int
    files: int
    versions: tuple[str, ...]
    error: str = ""


class Model:
    """A model by its name, and where a function sees it.

    Args:
        name: 1 to 63 letters, digits, '-' or '_'.
        mount_path: an absolute path of its own; "/models/<name>" where nothing is said.
        version: a digest that `glowplug model show` lists; "" = the latest when a container starts.
    """

    def __init__(self, name: str, mount_path: str = "", *, version: str = "") -> None:
        self.name = check_shared_name("Model", name)
        self.mount_path = _checked_path(mount_path or f"{PLACE}/{name}")
        if not isinstance(version, str) or not (version == "" or _VERSION.match(version)):
            raise ValueError(
                f"version={version!r}: give a digest of 64 hexadecimal digits, as `glowplug model show` lists them"
            )
        self.version = version
        self.directory: Path | None = None
        self.source = ""
        self.credentials = ""

    @classmethod
    def from_dir(cls, path: str | Path, name: str = "", mount_path: str = "") -> Model:
        """Return the model that a folder of this machine is; uploaded when it is deployed, or by `upload`.

        Args:
            path: the folder. Links to files are followed; owners, times and modes do not go along.
            name: the folder's own name where nothing is said.
        """
        folder = Path(path)
        model = cls(name or folder.name, mount_path)
        if not is_remote():
            model.directory = _absolute(path)
        return model

    @classmethod
    def from_hub(
        cls,
        repository: str,
        revision: str = "main",
        *,
        name: str = "",
        mount_path: str = "",
        credentials: str = "",
    ) -> Model:
        """Return the model that a repository of the Hugging Face hub is; deploying brings it, unless it is there.

        Args:
            repository: "organisation/name".
            revision: a branch, a tag or a commit. What a branch stood for when it was brought stays; `glowplug model
                pull` looks again.
            name: the repository's own name where nothing is said, with '-' for what no name may have.
            credentials: name of a secret that has HF_TOKEN, for what is not public.
        """
        own = re.sub(r"[^a-zA-Z0-9_-]+", "-", repository.rpartition("/")[2]).strip("-_")[:63]
        model = cls(name or own.strip("-_"), mount_path)
        model.source = f"hf:{repository}@{revision}"
        model.credentials = check_shared_name("credentials", credentials) if credentials else ""
        return model

    @property
    def path(self) -> Path:
        """Where the model is in this container: `mount_path`, or elsewhere if it can't be mounted there."""
        from glowplug.client.profile import model_places  # noqa: PLC0415 - where it is needed

        places = model_places()
        if is_remote() or self.name in places:  # in a sandbox, only the environment says so
            return Path(places.get(self.name, self.mount_path))
        raise RuntimeError(
            f"model {self.name} is seen inside containers; outside, `glowplug model show {self.name}` "
            "says what it is"
        )

    @blocking
    async def status(self) -> ModelStatus:
        """Return what the platform has. Raises: NotFoundError."""
        from glowplug.client.here import reach  # noqa: PLC0415
        from glowplug.client.models import model_status  # noqa: PLC0415

        return await model_status(await reach(), self.name)

    @blocking
    async def upload(self, path: str | Path = "") -> ModelStatus:
        """Make a folder the model's latest version; return when containers can have it.

        Args:
            path: the folder; that of `from_dir` where nothing is said.

        Raises: InvalidInputError for files that no model may have, UnavailableError.
        """
        from glowplug.client.here import current_session  # noqa: PLC0415
        from glowplug.client.models import upload_model  # noqa: PLC0415

        folder = _absolute(path) if path else self.directory
        if folder is None:
            raise ValueError(f"Model({self.name!r}).upload: give the folder")
        session = current_session()
        return await upload_model(
            await session.reach(), self.name, folder, session.output.model_event
        )

    @blocking
    async def pull(self, source: str = "", *, credentials: str = "") -> ModelStatus:
        """Bring weights from elsewhere as the latest version; return when containers can have it.

        Args:
            source: such as "hf:organisation/name@revision"; that of `from_hub` where nothing is said.
            credentials: name of the secret with the source's token.

        Raises: NotFoundError, UnauthenticatedError, UnavailableError.
        """
        from glowplug.client.here import current_session  # noqa: PLC0415
        from glowplug.client.models import pull_model  # noqa: PLC0415

        if not (source or self.source):
            raise ValueError(f"Model({self.name!r}).pull: give the source")
        session = current_session()
        return await pull_model(
            await session.reach(),
            self.name,
            source or self.source,
            session.output.model_event,
            credentials=credentials or self.credentials,
        )

    @blocking
    async def delete(self) -> None:
        """Forget it; containers that have it keep it. Raises: NotFoundError."""
        from glowplug.client.here import reach  # noqa: PLC0415

        await (await reach()).request("DELETE", f"/models/{self.name}")

    def at(self, mount_path: str) -> Model:
        """Return the same model, seen elsewhere."""
        model = Model(self.name, mount_path, version=self.version)
        model.directory = self.directory
        model.source, model.credentials = self.source, self.credentials
        return model

    def __repr__(self) -> str:
        return f"<glowplug Model {self.name} at {self.mount_path}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def _all(self) -> tuple[object, ...]:
        return (
            *(self.name, self.mount_path, self.version),
            *(self.directory, self.source, self.credentials),
        )


def parse_models(given: Sequence[Model] | Mapping[str, Model] | None) -> tuple[Model, ...]:
    """Return what a decorator's `models=` means: a list, or models by their paths. Raises: TypeError, ValueError."""
    if given is None:
        return ()
    if isinstance(given, str | Model) or not isinstance(given, Sequence | Mapping):
        raise TypeError(f'models={given!r}: give a list of Models, or {{"/path": Model("name")}}')
    for one in given.values() if isinstance(given, Mapping) else given:
        if not isinstance(one, Model):
            raise TypeError(f'models: {one!r} is no Model("name")')
    placed = [m.at(path) for path, m in given.items()] if isinstance(given, Mapping) else given
    found = tuple(placed)
    if len({one.mount_path for one in found}) < len(found):
        raise ValueError("models: two are at one path")
    if len({one.name for one in found}) < len(found):
        raise ValueError("models: one is there twice")
    return found


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _checked_path(path: object) -> str:
    if not isinstance(path, str):
        raise TypeError(f'mount_path={path!r}: give text such as "/models/llama"')
    if not path.startswith("/"):
        raise NotYetSupportedError(
            f"Model(mount_path={path!r}) is not yet supported; give an absolute path such as /models/llama"
        )
    return path.rstrip("/") or "/"
