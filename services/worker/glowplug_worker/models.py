"""The models of a container: what their names stand for when it starts, and their files on this host.

A name may lead to another version later; a container keeps what it was started with. Only versions that the
workspace's own record names are brought: a digest alone opens nothing.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.errors import NotFoundError, RejectedError
from glowplug_contracts.ids import ContainerId, Digest, check_name, check_token
from glowplug_contracts.messages.container import ContainerSpec
from glowplug_contracts.messages.deployment import ModelMount
from glowplug_contracts.messages.model import ModelRecord, ModelVersion
from glowplug_contracts.streams import MODELS

from glowplug_worker.ports import Bind
from glowplug_worker.workshop import Workshop


class HeldModel(msgspec.Struct, frozen=True):
    """A model that is here for a container: where it sees the files, and the version's digest."""

    bind: Bind
    tree: Digest


async def hold_models(
    workshop: Workshop, spec: ContainerSpec, container_id: ContainerId
) -> tuple[HeldModel, ...]:
    """Return a container's models, whose trees are held for it.

    Raises: RejectedError (model.not_found), UnavailableError, ContractError.
    """
    bucket = workshop.bus.bucket(MODELS)
    held = []
    for mount in spec.models:
        entry = await bucket.get(f"{check_token(spec.workspace)}.{check_name(mount.name)}")
        version = choose_version(entry.value if entry is not None else None, mount)
        try:
            root = await workshop.images.hold_tree(
                version.tree, container_id, mounts=workshop.backend.mounts
            )
        except NotFoundError as err:
            raise RejectedError(
                "model.not_found",
                f"the files of model {mount.name} are gone from imagecache; pull it again",
            ) from err
        bind = Bind(source=root, target=mount.path, shared=True)
        held.append(HeldModel(bind, version.tree))
    return tuple(held)


def choose_version(record: ModelRecord | None, mount: ModelMount) -> ModelVersion:
    """Return the version that a mount means. Raises: RejectedError (model.not_found)."""
    versions = record.versions if record is not None else ()
    for version in versions:
        if mount.version in ("", version.tree):
            return version
    which = f"version {mount.version[:16]} of model" if mount.version else "model"
    raise RejectedError(
        "model.not_found",
        f"there is no {which} {mount.name}; `glowplug model pull {mount.name} …` brings it",
    )
