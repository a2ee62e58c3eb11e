"""What a Hugging Face hub says about a repository, and where its files are. Pure.

The hub's API (https://huggingface.co/docs/hub/api) describes a repository at
The hub's API (huggingface.co/docs/hub/api) describes a repository at
at `/<repository>/resolve/<commit>/<path>`, often behind a redirect. Large files are named by their SHA-256, as Git LFS
does, others as Git does: by the SHA-1 of "blob <size>", a zero byte and the content.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

import msgspec
from glowplug_contracts.errors import ContractError
from glowplug_contracts.weights import check_files, refused

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
_SHA1 = re.compile(r"^[0-9a-f]{40}\Z")
_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")


class HubFile(msgspec.Struct, frozen=True):
    """A file of a repository. `digest` is "sha256:…" of its bytes, or "sha1:…" of `before` and its bytes."""

    path: str
    size: int
    digest: str
    before: bytes = b""


class Repository(msgspec.Struct, frozen=True):
    """A repository at one commit."""

    commit: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size for file in self.files)


class _Lfs(msgspec.Struct):
    sha256: str
    size: int


class _Sibling(msgspec.Struct, rename="camel"):
    rfilename: str
    size: int
    blob_id: str = ""
    lfs: _Lfs | None = None


class _Answer(msgspec.Struct):
    sha: str
    siblings: tuple[_Sibling, ...]


def api_url(hub: str, repository: str, revision: str) -> str:
    """Return where a repository is described, with digests."""
    return f"{hub}/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"


def file_url(hub: str, repository: str, commit: str, path: str) -> str:
    """Return where a file is."""
    return f"{hub}/{repository}/resolve/{commit}/{quote(path)}"


def read_repository(data: bytes, bytes_max: int) -> Repository:
    """Return what a hub said, every word checked.

    Raises: ContractError (model.corrupt) for what is no such answer; InvalidRequestError (model.refused,
        model.too_large) for files that no model may have.
    """
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except (msgspec.MsgspecError, RecursionError) as err:
        raise ContractError("model.corrupt", f"the hub's answer can't be read: {err}") from err
    if not _SHA1.match(answer.sha):
        raise ContractError("model.corrupt", "the hub names no commit")
    files = tuple(_file(one) for one in answer.siblings)
    check_files(((file.path, file.size) for file in files), bytes_max)
    return Repository(answer.sha, files)


def _file(said: _Sibling) -> HubFile:
    if said.lfs is not None:
        if not _SHA256.match(said.lfs.sha256) or said.lfs.size < 0:
            raise refused(said.rfilename, "has no digest at the hub")
        return HubFile(said.rfilename, said.lfs.size, f"sha256:{said.lfs.sha256}")
    if not _SHA1.match(said.blob_id):
        raise refused(said.rfilename, "has no digest at the hub")
    before = b"blob %d\0" % said.size
    return HubFile(said.rfilename, said.size, f"sha1:{said.blob_id}", before)
