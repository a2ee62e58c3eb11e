"""Have an image made before a version that needs it is deployed.

Asking is safe to repeat: imagecache joins a build that runs, or starts it again if whoever ran it died.
So silence is answered by asking again, with the same address for progress.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import msgspec
from glowplug_contracts.errors import (
    ForbiddenError,
    NotFoundError,
    PlatformError,
    RejectedError,
    UnavailableError,
)
from glowplug_contracts.ids import ImageDigest, WorkspaceId
from glowplug_contracts.messages.deployment import ImageSpec, SecretRef
from glowplug_contracts.messages.image import BuildProgress, EnsureAccepted, EnsureImage
from glowplug_contracts.subjects import ENSURE_IMAGE, IMAGE_PROGRESS
from glowplug_runtime.bus import Delivery

from glowplug_gateway.ports import Platform

ASK_TIMEOUT_S = 5.0
ASK_PATIENCE_S = 15.0
ASK_AGAIN_S = 0.2
SILENCE_S = 20.0
BUILD_MAX_S = 3600.0
PROGRESS_KEPT_MAX = 10_000

PLATFORM_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class ImageReady(msgspec.Struct, frozen=True, kw_only=True):
    """What containers of a version start from: "" and "" for the bare host base."""

    image_digest: ImageDigest = ImageDigest("")
    base_python: str = ""


def is_bare(spec: ImageSpec) -> bool:
    """Return whether nothing needs to be made."""
    return spec.on_host and not spec.steps and spec.python_version in ("", PLATFORM_PYTHON)


class Images:
    """See the module."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        # Whose secrets whoever makes an image may open, while we wait for it.
        self._awaited: dict[str, tuple[WorkspaceId, ImageSpec]] = {}

    def secret_of(self, ask: str) -> tuple[WorkspaceId, str]:
        """Return the secret that an image which is being made may be pulled with. Raises: NotFoundError."""
        workspace, spec = self._asked_for(ask)
        if not spec.credentials:
            raise _nobody()
        return workspace, spec.credentials

    def secrets_of(self, ask: str) -> tuple[WorkspaceId, tuple[SecretRef, ...]]:
        """Return the secrets that steps of an image which is being made name. Raises: NotFoundError."""
        workspace, spec = self._asked_for(ask)
        return workspace, spec.secrets()

    async def ensure(
        self, spec: ImageSpec, workspace: WorkspaceId
    ) -> AsyncIterator[BuildProgress | ImageReady]:
        """Yield what happens, and at last the ready image.

        Raises: RejectedError (image.build_failed, image.unsupported) or UnavailableError.
        """
        if is_bare(spec):
            yield ImageReady(base_python=spec.python_version)
            return
        # An address of its own, so that progress can't come before somebody listens for it.
        reply_to = self._platform.clock.id("build")
        heard: asyncio.Queue[BuildProgress] = asyncio.Queue(PROGRESS_KEPT_MAX)

        async def on_progress(delivery: Delivery[BuildProgress]) -> None:
            if delivery.message is not None and (not heard.full() or delivery.message.done):
                await heard.put(delivery.message)

        listening = await self._platform.bus.listen(
            IMAGE_PROGRESS.pattern(instance=reply_to), on_progress
        )
        self._awaited[reply_to] = (workspace, spec)
        try:
            request = EnsureImage(spec=spec, workspace=workspace, reply_to=reply_to)
            async for progress in self._watch(request, heard):
                if progress.done:
                    yield _ready(progress, spec)
                    return
                yield progress
        finally:
            self._awaited.pop(reply_to, None)
            await listening.close()

    def _asked_for(self, ask: str) -> tuple[WorkspaceId, ImageSpec]:
        found = self._awaited.get(ask)
        if found is None:
            raise _nobody()
        return found

    async def _watch(
        self, request: EnsureImage, heard: asyncio.Queue[BuildProgress]
    ) -> AsyncIterator[BuildProgress]:
        await self._ask(request)
        deadline = self._platform.clock.now() + BUILD_MAX_S
        last: dict[str, int] = {}
        while self._platform.clock.now() < deadline:
            try:
                progress = await asyncio.wait_for(heard.get(), SILENCE_S)
            except TimeoutError:
                await self._ask(request)
                continue
            if progress.number > last.get(progress.build_id, -1):
                last[progress.build_id] = progress.number
                yield progress
        raise UnavailableError(
            "platform.unavailable", f"the image was not ready after {BUILD_MAX_S:.0f} s"
        )

    async def _ask(self, request: EnsureImage) -> None:
        """Find an imagecache that takes it; one may just be starting."""
        deadline = self._platform.clock.now() + ASK_PATIENCE_S
        while True:
            try:
                await self._platform.bus.request(
                    ENSURE_IMAGE.at(), request, EnsureAccepted, timeout_s=ASK_TIMEOUT_S
                )
            except UnavailableError:
                if self._platform.clock.now() >= deadline:
                    raise
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                return


def _nobody() -> NotFoundError:
    return NotFoundError("secret.not_found", "no image that needs a secret is asked for so")


def _ready(progress: BuildProgress, spec: ImageSpec) -> ImageReady:
    if progress.error is not None:
        error = progress.error
        details = dict(error.details)
        if error.traceback:
            details["output"] = error.traceback
        raise _ERRORS.get(error.code, RejectedError)(error.code, error.message, details=details)
    return ImageReady(
        image_digest=progress.image_digest,
        base_python=progress.base_python or spec.python_version,
    )


_ERRORS: dict[str, type[PlatformError]] = {
    "platform.unavailable": UnavailableError,
    "image.not_found": NotFoundError,
    "registry.not_found": NotFoundError,
    "registry.forbidden": ForbiddenError,
    "registry.no_room": UnavailableError,
    "registry.rate_limited": UnavailableError,
    "registry.unavailable": UnavailableError,
}
