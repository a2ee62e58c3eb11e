"""Models: weights under a name, each version of them a tree that never changes."""

from __future__ import annotations

from enum import StrEnum

from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.invocation import RemoteError


class PullState(StrEnum):
    """How far a pull is. One that has ended well is not kept: the model has its version then."""

    PENDING = "pending"
    PULLING = "pulling"
    FAILED = "failed"


class ModelVersion(Message, frozen=True, kw_only=True):
    """Weights that are stored whole.

    Attributes:
        tree: digest of their flattened manifest (`trees.py`), a blob of the platform's own.
        source: where they came from, as it was asked for.
        revision: what that stood for then: a commit, a digest; "" where the source has none.
        bytes_total: of all files.
        ready_at: Unix seconds.
    """

    tree: Digest
    source: str
    revision: str = ""
    files: int = 0
    bytes_total: int = 0
    ready_at: float = 0.0


class ModelPull(Message, frozen=True, kw_only=True):
    """Weights that are being brought, or could not be.

    Attributes:
        pull_id: names this asking; a later one under the same name ends it.
        source: see `weights.parse_source`.
        credentials: name of the secret with the source's token; "" = none is shown.
        text: what is being done, for people.
        bytes_total: 0 = not known yet.
        owner: the instance of imagecache that does it; "" = nobody yet.
        error: why it failed.
    """

    pull_id: str
    source: str
    credentials: str = ""
    state: PullState = PullState.PENDING
    text: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    owner: str = ""
    asked_at: float = 0.0
    error: RemoteError | None = None


class ModelRecord(Message, frozen=True, kw_only=True):
    """What a name stands for, as stored in the `models` bucket (key: workspace.name).

    Attributes:
        versions: the latest first; containers that start get that one, those that run keep theirs.
        pull: the last one, unless it has ended well.
    """

    workspace: WorkspaceId
    name: str
    versions: tuple[ModelVersion, ...] = ()
    pull: ModelPull | None = None
    created_at: float = 0.0
