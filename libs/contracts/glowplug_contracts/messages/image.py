"""Images: asking for one, watching it being built, and the manifest that names its chunks."""

from __future__ import annotations

from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.deployment import ImageSpec
from glowplug_contracts.messages.invocation import RemoteError


class EnsureImage(Message, frozen=True, kw_only=True):
    """Gateway or sandbox → imagecache (one replica takes it): have this image, build it if needed.

    Progress goes to IMAGE_PROGRESS of `reply_to` until one with `done`.
    """

    spec: ImageSpec
    workspace: WorkspaceId
    reply_to: str


class EnsureAccepted(Message, frozen=True, kw_only=True):
    """Somebody works on it."""

    build_id: str


class BuildProgress(Message, frozen=True, kw_only=True):
    """A line about a build. With `done`: image_digest is set, or error.

    `kind` is "step" (a step starts; cached or not), "output" (its text), "bytes" (how far something is: `text`
    says what, `bytes_done` of `bytes_total`), "waiting" (nothing to show, the build lives), or "done". Numbers
    grow; those of "bytes" and "waiting" are not said again to late comers.
    """

    build_id: str
    number: int
    kind: str
    text: str = ""
    cached: bool = False
    done: bool = False
    image_digest: ImageDigest = ImageDigest("")
    base_python: str = ""
    error: RemoteError | None = None
    bytes_done: int = 0
    bytes_total: int = 0


class ChunkRef(Message, frozen=True, kw_only=True):
    """`size` bytes at `offset` of the file are the content named by `digest`."""

    digest: Digest
    offset: int
    size: int


class ManifestEntry(Message, frozen=True, kw_only=True):
    """One path of an image, relative, no '..'. `kind` is "file", "dir" or "link"."""

    path: str
    kind: str
    mode: int
    size: int = 0
    target: str = ""
    chunks: tuple[ChunkRef, ...] = ()


class BaseImage(Message, frozen=True, kw_only=True):
    """An image of a registry below an image of ours: its whole tree, and how it wants to be run.

    Attributes:
        reference: with the digest of what was pulled.
        platform: "linux/amd64": what its programs run on.
        tree: digest of its flattened manifest (`trees.py`), a blob of the platform's own.
        python: path of the interpreter in it that runs user code.
        env: its environment, without PATH.
        path: its PATH; "" = the usual one.
        cwd: its working directory; "" = it names none.
    """

    reference: str
    platform: str
    tree: Digest
    python: str
    env: dict[str, str] = {}
    path: str = ""
    cwd: str = ""


class ImageManifest(Message, frozen=True, kw_only=True):
    """What an image holds. Its msgpack bytes' BLAKE3 is the image's digest.

    `host` names OS, libc, full Python version and architecture it was built on: a worker with
    another `host` refuses it. `python_version` is the minor version whose interpreter runs it. With a
    `base`, `host` says nothing: its tree is the container's root, and the entries lie in the layer on top.
    """

    host: str
    python_version: str
    entries: tuple[ManifestEntry, ...]
    env: dict[str, str] = {}
    bytes_total: int = 0
    base: BaseImage | None = None


class CachedStep(Message, frozen=True, kw_only=True):
    """Value of the `build_steps` bucket: what a chain of steps ended in."""

    image_digest: ImageDigest
    built_at: float = 0.0


class ImageRecord(Message, frozen=True, kw_only=True):
    """An image that a workspace has had built, as stored in the `images` bucket (key: workspace.digest).

    Attributes:
        steps: what it is made of, as people read it.
        chains: names of its cached steps in `build_steps`.
        bytes_total, files: of its layer and its base, whatever other images share.
    """

    image_digest: ImageDigest
    workspace: WorkspaceId
    host: str
    python_version: str
    steps: tuple[str, ...] = ()
    chains: tuple[Digest, ...] = ()
    files: int = 0
    bytes_total: int = 0
    built_at: float = 0.0
