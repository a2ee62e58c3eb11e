"""Outputs: files that the code of a task has kept. The bytes are blobs; this is what names them.

An output belongs to a workspace and to the invocation that saved it. Its id follows from that invocation, its
name and its content: an attempt that saves the same again makes no second one.
"""

from __future__ import annotations

from glowplug_contracts.ids import Digest, InvocationId, OutputId, WorkspaceId
from glowplug_contracts.messages import Message

# Bytes of one part: what leaves a container in one request, and what a gateway holds of a download.
OUTPUT_PART_BYTES_MAX = 4 * 1024 * 1024
OUTPUT_NAME_BYTES_MAX = 255
# Of one task.
OUTPUTS_MAX = 1_000
# A public address is good for at most so long.
OUTPUT_URL_S_MAX = 7 * 86_400.0


class OutputPart(Message, frozen=True, kw_only=True):
    """A piece of an output, in order: a blob."""

    digest: Digest
    size: int


class OutputRecord(Message, frozen=True, kw_only=True):
    """One file that was saved.

    Attributes:
        name: as its readers see it: one component, printable, without any path.
        container_id: where the code ran.
        size: of all parts together, in bytes.
        kept_until: after that it is gone, bytes and all.
    """

    output_id: OutputId
    workspace: WorkspaceId
    invocation_id: InvocationId
    name: str
    size: int
    parts: tuple[OutputPart, ...] = ()
    container_id: str = ""
    saved_at: float = 0.0
    kept_until: float = 0.0


class OutputKey(Message, frozen=True, kw_only=True):
    """With what the platform's public addresses of outputs are signed."""

    secret: str
