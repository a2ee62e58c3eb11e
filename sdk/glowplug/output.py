"""`Output`: a file or folder that a task keeps for its caller, with a public address on demand."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from glowplug.errors import InvalidInputError, NotFoundError
from glowplug.remote import is_remote
from glowplug.twins import blocking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

URL_S = 3600


class OutputStat(NamedTuple):
    """What the platform keeps: its size in bytes, when it was saved, and until when it is kept (UTC)."""

    size: int
    mtime: datetime
    kept_until: datetime


class Output:
    """A file that a task saves, or one that was saved; every method has an awaitable twin, `o.save.aio()`.

    Args:
        path: a file, or a folder, which is saved as one .zip file. It must be there.
        name: what it is called; without it, as the file is.

    Attributes:
        id: the platform's name for it; "" before it is saved.
        task_id: whose output it is.
        size: bytes, once it is saved.
    """

    def __init__(self, path: str | os.PathLike[str], *, name: str = "") -> None:
        self.path: Path | None = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"Output(path={str(path)!r}): there is no such file or folder")
        resolved = self.path.resolve().name
        self.name = name or (f"{resolved}.zip" if self.path.is_dir() else resolved)
        self.id = ""
        self.task_id = ""
        self.size = 0
        self._temporary = False

    @classmethod
    def from_id(cls, output_id: str) -> Self:
        """Return an output that was saved; nothing is asked before it is used."""
        return cls._known({"output_id": output_id, "task_id": "", "name": "", "size": 0})

    @classmethod
    def from_pil_image(cls, image: Any, format: str = "png", *, name: str = "") -> Self:  # noqa: A002
        """Return an output for a PIL image, which is written to a file of its own first.

        Args:
            image: anything with PIL's `save(path, format=…)`.
            format: "png", "jpeg", "webp" …
            name: what it is called; without it, a name of its own.
        """
        kind = format.lstrip(".").lower()
        path = Path(tempfile.mkdtemp(prefix="output-")) / f"{name or uuid.uuid4()}"
        if path.suffix.lower() != f".{kind}":
            path = path.with_name(f"{path.name}.{kind}")
        image.save(path, format={"jpg": "jpeg"}.get(kind, kind))
        made = cls(path)
        made._temporary = True
        return made

    @blocking
    async def save(self) -> Self:
        """Keep it; return self. When this returns, the bytes are on the platform's disk.

        The same name and content saved again by the same task, in another attempt too, is the same output.

        Raises: InvalidInputError outside of a task; RequestError where it is too large.
        """
        from glowplug.client.output_files import save_path  # noqa: PLC0415 - what needs the network

        if self.path is None or self.id:
            return self
        if not is_remote():
            raise InvalidInputError(
                "Output.save() works in code that runs on the platform: an output belongs to a task. To share "
                "a file from here, use a Volume (`glowplug volume cp`)",
                code="output.none_here",
            )
        self._take(await save_path(self.path, self.name))
        if self._temporary:
            await asyncio.to_thread(shutil.rmtree, self.path.parent, ignore_errors=True)
            self.path = None
        return self

    @blocking
    async def public_url(self, expires: float = URL_S) -> str:
        """Return an address that anybody can read it at, without a token, for so many seconds.

        At most 7 days, and never longer than the output is kept. Removing the output ends its addresses.

        Raises: InvalidInputError before it is saved; NotFoundError when it is gone.
        """
        from glowplug.client.output_files import public_url  # noqa: PLC0415

        return await public_url(self._saved(), expires)

    @blocking
    async def stat(self) -> OutputStat:
        """Return what the platform keeps. Raises: InvalidInputError before it is saved; NotFoundError."""
        return await self._stat()

    @blocking
    async def exists(self) -> bool:
        """Return whether the platform has it."""
        try:
            await self._stat()
        except NotFoundError:
            return False
        except InvalidInputError:
            if self.id:
                raise
            return False
        return True

    @blocking
    async def read(self) -> bytes:
        """Return its bytes. Raises: NotFoundError."""
        from glowplug.client.output_files import read_output  # noqa: PLC0415

        return await read_output(self._saved())

    @blocking
    async def download(self, target: str | os.PathLike[str] = ".") -> Path:
        """Write it to a file (or, under its name, into a folder); return where. Whole or not at all.

        Raises: NotFoundError.
        """
        from glowplug.client.output_files import download_output  # noqa: PLC0415

        return await download_output(self._saved(), Path(target))

    @blocking
    async def delete(self) -> None:
        """Remove it from the platform; its public addresses end. Not from inside a container.

        Raises: NotFoundError.
        """
        from glowplug.client.output_files import delete_output  # noqa: PLC0415

        await delete_output(self._saved())

    def __repr__(self) -> str:
        return f"<glowplug Output {self.name or self.id} ({self.id or 'not saved'})>"

    async def _stat(self) -> OutputStat:
        from datetime import UTC, datetime  # noqa: PLC0415 - only where it is asked for

        from glowplug.client.output_files import output_value  # noqa: PLC0415

        found = await output_value(self._saved())
        self._take(found)
        saved_at, kept_until = (
            datetime.fromtimestamp(float(found[key]), UTC) for key in ("saved_at", "kept_until")
        )
        return OutputStat(self.size, saved_at, kept_until)

    def _saved(self) -> str:
        if not self.id:
            raise InvalidInputError(f"{self.name} is not saved yet; call .save() first")
        return self.id

    def _take(self, value: dict[str, Any]) -> None:
        self.id = str(value["output_id"])
        self.task_id = str(value["task_id"])
        self.name = str(value["name"])
        self.size = int(value["size"])

    @classmethod
    def _known(cls, value: dict[str, Any]) -> Self:
        made = cls.__new__(cls)
        made.path = None
        made._temporary = False  # noqa: SLF001
        made._take(value)  # noqa: SLF001 - of this class
        return made


def outputs_of(task_id: str) -> Iterator[Output]:
    """Yield a task's outputs, newest first."""
    from glowplug.client.output_files import output_rows  # noqa: PLC0415 - what needs the network

    for row in output_rows(task_id):
        yield Output._known(row)  # noqa: SLF001 - made here
