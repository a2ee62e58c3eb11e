"""What the worker needs of others, in its own words: backends, interpreters, images and blobs.

The supervisor starts containers through `Backend`; `runtime/` implements it (`process`, `bwrap`), and
`runtime/choose.py` tries them at start-up. `images/` implements `ImageStore`. Nothing here does I/O.

Makers that the composition root calls:

    glowplug_worker.runtime.cgroups.open_cgroups(data_dir) -> Cgroups
    glowplug_worker.runtime.choose.choose_backend(wanted, data_dir, cgroups) -> Backend  (coroutine)
        wanted: "auto", "process" or "bwrap"; tries what it returns by really starting something.
    glowplug_worker.runtime.python.find_pythons() -> Pythons
    glowplug_worker.images.open_images(data_dir, url_of_imagecache, mounting) -> async context manager
        of ImageStore; url_of_imagecache: Replicas, or Callable[[], str | None]; mounting: `images/opening.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec
from glowplug_contracts.ids import (
    ContainerId,
    DeploymentId,
    Digest,
    ImageDigest,
    InvocationId,
    WorkspaceId,
)
from glowplug_contracts.messages.container import ContainerKind, LayerCommitted
from glowplug_contracts.messages.invocation import Reply
from glowplug_contracts.messages.record import InvocationRecord

from glowplug_worker.access import Granted
from glowplug_worker.slots import Slots

# Which network a container is started in.
Network = Literal["shared", "none", "own"]

# What a backend may be able to enforce.
Enforced = Literal["memory", "cpu", "pids", "io", "disk", "filesystem", "network", "users"]

# Stands in a command line for the numbers of inherited descriptors, joined by commas.
FDS: Final = "{fds}"


class IoLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a container may ask of each disk in a second; 0 = nothing said. Beyond it, it waits."""

    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a container may use; 0 = nothing said.

    Attributes:
        memory_bytes: beyond it the kernel kills.
        cpu_millis: never more than so many thousandths of a core, also when others are idle.
        cpu_share_millis: its share when others want the same cores: what was requested.
        pids: processes and threads.
        disk_bytes: what it may write outside of volumes: temporary files, a build's layer.
        disk_inodes: how many files and directories.
        io: of what is read and written where it lies on a disk; the kernel holds what it does in time.
    """

    memory_bytes: int = 0
    cpu_millis: int = 0
    cpu_share_millis: int = 0
    pids: int = 0
    disk_bytes: int = 0
    disk_inodes: int = 0
    io: IoLimits = IoLimits()

    @property
    def named(self) -> tuple[Enforced, ...]:
        """Return which limits are set."""
        found: dict[Enforced, int] = {
            "memory": self.memory_bytes,
            "cpu": self.cpu_millis,
            "pids": self.pids,
            "io": self.io != IoLimits(),
            "disk": self.disk_bytes or self.disk_inodes,
        }
        return tuple(name for name, limit in found.items() if limit > 0)


class IoDone(msgspec.Struct, frozen=True, kw_only=True):
    """What disks have done for a container, all of them together.

    What its own disk did and the host's disk did for that again counts twice.
    """

    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel counted of a container; all zero where nobody counts.

    Attributes:
        limits: what it was held to.
        oom_kills: processes killed because the memory limit was reached.
        pids_refused: forks refused because of the limit.
        cpu_throttled_s: how long threads waited because of the limit.
        disk_bytes, disk_inodes: what its own disk holds; `disk_full`: it has no room for more.
        io: what disks have done for it.
    """

    limits: Limits = Limits()
    oom_kills: int = 0
    memory_peak_bytes: int = 0
    pids_refused: int = 0
    cpu_s: float = 0.0
    cpu_throttled_s: float = 0.0
    disk_bytes: int = 0
    disk_inodes: int = 0
    disk_full: bool = False
    io: IoDone = IoDone()


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """A Python installed on this host.

    Attributes:
        version: full, "3.11.7"; the first two parts are what images ask for.
        executable: what is executed, an existing absolute path outside any virtual environment.
        prefix: its base prefix; bound read-only at its own path unless it is under /usr.
    """

    version: str
    executable: Path
    prefix: Path


class Pythons(Protocol):
    """The interpreters that containers can run on."""

    def versions(self) -> Sequence[str]:
        """Return the minor versions on offer ("3.11"), the platform's own first."""

    def find(self, version: str) -> Interpreter | None:
        """Return the interpreter of a minor version ("" = the platform's own), or None."""


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """A file or directory of the host that the container sees at `target`.

    What is `shared` by several containers is not handed over to one of them.

    Backends without `mounts` ignore binds: there the container sees `source` itself.
    """

    source: Path
    target: str
    writable: bool = False
    shared: bool = False


class DeviceNode(msgspec.Struct, frozen=True, kw_only=True):
    """A character device of the host that the container may use at `path`; `source` if it lies elsewhere.

    `major` and `minor` are for backends that make the node themselves and allow it in a device cgroup.
    Files that go with a device (driver libraries) are ordinary binds. Backends without `mounts` hide no
    devices and ignore this: there only the environment says which are meant.
    """

    path: str
    major: int
    minor: int
    source: str = ""


class StartPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a backend needs to start one container; it leaves no choice.

    Attributes:
        argv: the runner's command line, already spelled with the paths that the container sees
            (`Bind.target` with `mounts`, else `Bind.source`); `FDS` in it stands for the numbers under
            which the first process inherits `fds`.
        fds: open file descriptors that the first process inherits, under these numbers or others; every
            other descriptor is closed. The caller closes its copies after `start` returned or raised.
        env: the whole environment; nothing of the worker's own is inherited.
        cwd: as the container sees it.
        scratch: a directory of this container only, on the host. With `mounts` it is the backend's
            to use (generated passwd and so on); without, HOME and TMPDIR point into it.
        binds: writable ones are handed to the container's uid by the backend, where it has one.
        tmpfs: paths that become empty, private, writable file systems (only with `mounts`).
        directories: empty ones to mount something over later.
        limits: a backend leaves out of `enforces` what it can't hold a container to.
        devices: nodes of the host's that the container may open for reading and writing; no others.
        network: "shared" is the host's own; "none" takes it away; "own" is the one that `netns` leads to.
        netns: open descriptor of the network namespace that the container joins before it becomes
            anybody else; None = with "shared" the host's, with "none" an empty one that the backend makes.
        root: what the container has as its root, read-only, instead of the host's system; the paths of `argv`
            are then its own. Only with `mounts`.
        home: open descriptors of the user and mount namespaces that it is made in, if that is to be forked
            from which an ordinary user's worker has made.
    """

    container_id: ContainerId
    kind: ContainerKind
    interpreter: Interpreter
    argv: tuple[str, ...]
    fds: tuple[int, ...]
    env: dict[str, str]
    cwd: str
    scratch: Path
    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[str, ...] = ("/tmp",)  # noqa: S108 - inside the container
    directories: tuple[str, ...] = ()
    hostname: str = "glowplug"
    limits: Limits = Limits()
    devices: tuple[DeviceNode, ...] = ()
    network: Network = "shared"
    netns: int | None = None
    root: Path | None = None
    home: tuple[int, int] | None = None

    def command(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Return `argv` with the numbers of the inherited descriptors."""
        said = ",".join(map(str, numbers))
        return tuple(said if each == FDS else each for each in self.argv)


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How the container's main process ended: an exit code, or the signal that killed it.

    A wrapper's 128 + n is reported as signal n. `stderr_tail`: the last bytes (≤ 4 KiB) that the
    process tree wrote to the stderr it was started with, before the runner captured it. `evidence`: the
    kernel's own counts. `unmade`: the container was never there, `stderr_tail` says why.
    """

    code: int | None = None
    signal: int | None = None
    stderr_tail: str = ""
    evidence: Evidence = Evidence()
    unmade: bool = False


class RunningContainer(Protocol):
    """A started container's process tree."""

    @property
    def pid(self) -> int:
        """Return the host pid of the outermost process (recorded for the next janitor)."""

    def evidence(self) -> Evidence:
        """Return what the kernel has counted so far."""

    def kill(self) -> None:
        """SIGKILL the whole tree now, sessions and grandchildren included. May be repeated."""

    async def wait(self) -> Exit:
        """Return when the main process has ended and nothing of the tree lives. May be repeated."""

    async def close(self) -> None:
        """Kill what is left, wait, and give back what the backend held (uid, descriptors)."""


class Backend(Protocol):
    """A way to isolate a container, and what it can enforce."""

    @property
    def name(self) -> str:
        """Return its word: "process" or "bwrap"."""

    @property
    def reason(self) -> str:
        """Return why this one was chosen, in one sentence for `doctor`."""

    @property
    def mounts(self) -> bool:
        """Return whether the container has its own root, so that binds appear at their targets."""

    @property
    def enforces(self) -> frozenset[Enforced]:
        """Return what it holds the container to."""

    async def start(self, plan: StartPlan) -> RunningContainer:
        """Start the runner and return at once; readiness is said over the inherited sockets.

        The tree dies with the worker (parent-death signal). Cancelling leaves nothing behind.
        Raises: UnavailableError if the process can't be started.
        """


class HostPython(msgspec.Struct, frozen=True):
    """How this host's interpreter is started in another root: a command's beginning, and what it needs to see."""

    command: tuple[str, ...]
    binds: tuple[Bind, ...]


class RootedBackend(Protocol):
    """Starts builds that may change their root: `runtime/rooted`."""

    def check(self) -> None:
        """Raise RejectedError (image.unsupported) where this worker can't have such containers."""

    async def start(self, plan: StartPlan, directory: Path) -> RunningContainer:
        """As `Backend.start`; what becomes of `plan.root` is kept in a new `directory`."""


class Attachment(Protocol):
    """A container's network, taken before it starts and given back after its end."""

    @property
    def network(self) -> Network:
        """Return what `StartPlan.network` is to be."""

    @property
    def netns(self) -> int | None:
        """Return what `StartPlan.netns` is to be; open until `close`."""

    @property
    def binds(self) -> tuple[Bind, ...]:
        """Return files that go with the network (resolv.conf, hosts)."""

    async def move(self, pid: int) -> None:
        """Give an own network to a process that was born with an empty one, before it runs user code.

        Raises: UnavailableError.
        """

    async def close(self) -> None:
        """Give it back. May be repeated."""


class Networks(Protocol):
    """The networks that this worker can give containers."""

    @property
    def own(self) -> bool:
        """Return whether containers have networks of their own."""

    @property
    def host(self) -> bool:
        """Return whether containers may have the machine's network."""

    async def tend(self, doors: Iterable[tuple[str, int]]) -> None:
        """Keep true what changes around containers; called every few seconds.

        The platform's own `doors` (addresses and ports; names are left out) stay shut to them, and new ways
        out of this host are ways out for them.
        """

    async def attach(self, name: str, granted: Granted) -> Attachment:
        """Return a network that reaches what was granted, for the container of this name.

        Raises: UnavailableError. Cancelling leaves nothing behind.
        """


class HeldTree(msgspec.Struct, frozen=True, kw_only=True):
    """A tree (`contracts/trees.py`) that containers can have as their root.

    Attributes:
        root: its root directory on this host, read-only by agreement.
        method: how it is there: "extraction" and so on.
        reason: why that way, in one sentence; also what it does not keep (owners, for an ordinary user).
    """

    root: Path
    method: str
    reason: str


class Mounts(Protocol):
    """Brings trees to this host, as directories: extracted whole, or mounted before their content is there."""

    @property
    def method(self) -> str:
        """Return the word for how: "extraction" and so on."""

    @property
    def reason(self) -> str:
        """Return why this one was chosen, in one sentence for `doctor`."""

    async def hold(self, tree: Digest, holder: str) -> HeldTree:
        """Return the tree's root, which stays until `holder` releases it; holding twice is holding once.

        Args:
            tree: digest of its manifest, a blob of imagecache.
            holder: a container's id.

        Raises: NotFoundError (image.not_found), ContractError (image.corrupt), UnavailableError (no
            imagecache answers, or the disk is full). Cancelling leaves nothing held.
        """

    async def release(self, tree: Digest, holder: str) -> None:
        """The holder has ended. May be repeated."""

    async def started(self, tree: Digest, holder: str) -> None:
        """The holder has read what its start reads: the next first one anywhere has that here before it begins."""

    async def tend(self) -> None:
        """Let go of what nobody holds any more, and keep to the bound of the disk; called every few seconds."""

    def listen(self, lost: Callable[[Sequence[str]], None]) -> None:
        """Call `lost` with the holders of trees that can't be read any more, before they see errors."""


class LocalImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image on this host's disk.

    Attributes:
        root: the layer directory (`bin`, `site-packages`, files), read-only by agreement.
        env: the image's own environment; the container's wins.
        python_version: minor version it was built for; "" = the platform's own.
        base: what the container has as its root instead of the host's system; None for the host base.
    """

    root: Path
    env: dict[str, str] = {}
    python_version: str = ""
    base: LocalBase | None = None


class LocalBase(msgspec.Struct, frozen=True, kw_only=True):
    """A root directory that came with an image.

    Attributes:
        root: on this host.
        python: the path of its interpreter, inside.
        path: its PATH; "" where it says nothing.
        cwd: its working directory, inside; "" where it says nothing.
    """

    root: Path
    python: str
    path: str = ""
    cwd: str = ""


class ChangedRoot(msgspec.Struct, frozen=True):
    """Where a build container's changes lie (`runtime/rooted/changes.py`), and of which image they are."""

    directory: Path
    began: ImageDigest


class BuildNeeds(Protocol):
    """What a build container gets beside its image: see images/kit.py."""

    @property
    def binds(self) -> tuple[Bind, ...]:
        """Return what is mounted; the layer and the cache are writable."""

    @property
    def env(self) -> dict[str, str]:
        """Return what is added to the environment; the user's own variables win."""


# Hears how many of the bytes that are to be stored are, and how many there are.
Pushed = Callable[[int, int], Awaitable[None]]


async def pushed_unseen(_done: int, _total: int) -> None:
    """Tell nobody."""


class ImageStore(Protocol):
    """Images and sources on this host's disk, filled from imagecache, verified by digest."""

    async def ensure(self, digest: ImageDigest, holder: str = "") -> LocalImage:
        """Return the extracted image, fetched first where it is not here; held until `release`.

        Concurrent calls for one digest share the work. Raises: NotFoundError (image.not_found),
        RejectedError (image.unsupported: another host), ContractError (image.corrupt),
        UnavailableError (no imagecache answers).
        """

    async def hold_tree(self, tree: Digest, holder: str, *, mounts: bool) -> Path:
        """Return the root of a tree that a container has beside its image; held until `release`.

        `mounts`: `Backend.mounts`. Raises: NotFoundError (image.not_found), ContractError (image.corrupt),
        UnavailableError.
        """

    async def ensure_source(self, digest: Digest, owner: WorkspaceId) -> Path:
        """Return the directory that a source zip was unpacked to; entries never leave it."""

    async def prepare_build(
        self,
        container_id: ContainerId,
        workspace: WorkspaceId,
        parent: ImageDigest,
        directory: Path,
        python: Path,
        *,
        mounts: bool,
    ) -> BuildNeeds:
        """Make a build container's writable layer, `directory`/layer; return what it needs besides."""

    async def release(self, holder: str) -> None:
        """The holder (a container) has ended: what it alone had of images may go. May be repeated."""

    def started(self, holder: str) -> None:
        """The holder is ready: what of its image was read until now is what a start reads."""

    def listen(self, lost: Callable[[Sequence[str]], None]) -> None:
        """Call `lost` with the holders of images that can't be read any more."""

    def end_build(self, container_id: ContainerId) -> None:
        """A build container has ended."""

    async def commit(
        self,
        directory: Path,
        parent: ImageDigest,
        python_version: str,
        env: dict[str, str],
        changed: ChangedRoot | None = None,
        told: Pushed = pushed_unseen,
    ) -> LayerCommitted:
        """Pack a build container's layer directory, push what imagecache lacks, name the manifest.

        `changed`: what it did to its root; `told` hears how far it is.

        Errors of the content are in `LayerCommitted.error`; no exception is the user's.
        """

    def digests(self) -> Sequence[ImageDigest]:
        """Return the images that are on disk now, for placement's affinity."""


# What belongs to a call is kept so long, unless something says longer.
CALL_BLOBS_KEPT_S = 2 * 86_400.0
# imagecache refuses longer leases.
LEASE_S_MAX = 90 * 86_400.0


class Blobs(Protocol):
    """Large arguments and results of workspaces, kept by imagecache under their BLAKE3 digest."""

    async def get(self, digest: Digest, owner: WorkspaceId) -> bytes:
        """Return the verified bytes of what is its owner's. Raises: NotFoundError, UnavailableError, ContractError."""

    async def put(
        self, data: bytes, owner: WorkspaceId, keep_s: float = CALL_BLOBS_KEPT_S
    ) -> Digest:
        """Store the bytes for so long; return their name once they are safe. Raises: UnavailableError."""


class Room(Protocol):
    """A container, as far as calls from gateways are concerned."""

    @property
    def container_id(self) -> ContainerId:
        """Which one."""

    @property
    def deployment_id(self) -> DeploymentId:
        """Whose calls it takes."""

    @property
    def slots(self) -> Slots:
        """What it would take now."""


class Answers(Protocol):
    """The short way to gateways that are linked."""

    async def answer(self, instance: str, reply: Reply, room: Room | None = None) -> bool:
        """Answer the gateway `instance`, and tell what room a container has now; False without a link."""

    async def task_ended(
        self,
        instance: str,
        invocation_id: InvocationId,
        sequence: int,
        record: InvocationRecord | None,
        room: Room,
    ) -> None:
        """Tell the gateway that sent a task what became of it, if it is still linked."""

    def changed(self, rooms: Iterable[Room]) -> None:
        """Containers have got or lost room by other means than answers."""
