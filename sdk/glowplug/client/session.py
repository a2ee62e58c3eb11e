"""What one program shares: its profile, its connections, its deployments and its live output.

Made at the first use; ended by the interpreter's exit, which first prints what functions have written.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

from glowplug.client.deploying import Deployed, Packer, Progress, deploy, describe
from glowplug.client.http import Http
from glowplug.client.local import LocalPlatform, start_local
from glowplug.client.loop import background, in_thread
from glowplug.client.output import Output
from glowplug.client.profile import Profile, is_quiet, load_profile
from glowplug.errors import GlowplugError

if TYPE_CHECKING:
    from glowplug.wrappers import Wrapper

PROBE_PATIENCE_S = 0.5
CLOSE_S = 6.0


class Session:
    """One program's hold on a platform. Everything but `close` runs in the background loop."""

    def __init__(self, profile: Profile, *, quiet: bool, may_start: bool = True) -> None:
        self.may_start = may_start
        self.http = Http(profile)
        self.packer = Packer(self.http)
        self.output = Output(self.http, quiet=quiet)
        self.pid = os.getpid()
        self._platform: LocalPlatform | None = None
        self._reached = False
        self._reaching = asyncio.Lock()
        self._deploying: dict[int, asyncio.Lock] = {}

    @property
    def reached(self) -> bool:
        """Whether a platform is known to answer, so that `reach` would return at once."""
        return self._reached

    async def reach(self) -> Http:
        """Return the connection to a platform that answers; start one if the profile allows it.

        Raises: UnavailableError if none answers and none can be started.
        """
        if self._reached:
            return self.http
        async with self._reaching:
            if not self._reached:
                if self._may_start_one() and not await self._answers():
                    await self._start_platform()
                self._reached = True
        return self.http

    async def deployment_of(self, wrapper: Wrapper[Any, Any]) -> Deployed:
        """Return the function's deployment, made (without a name) at its first call here."""
        found = wrapper.deployed_in(self)
        if found is not None:
            return found
        lock = self._deploying.setdefault(id(wrapper), asyncio.Lock())
        async with lock:
            found = wrapper.deployed_in(self)
            if found is None:
                found = await self.deploy(wrapper, ephemeral=True)
        return found

    async def deploy(
        self,
        wrapper: Wrapper[Any, Any],
        *,
        ephemeral: bool,
        progress: Progress | None = None,
        follow: bool = True,
    ) -> Deployed:
        """Deploy a function, by name or for this program only, and follow its output."""
        http = await self.reach()
        if any(model.directory or model.source for model in wrapper.asked.models):
            from glowplug.client.models import ensure_models  # noqa: PLC0415 - few have any

            await ensure_models(http, wrapper.asked.models, self.output.model_event)
        spec = await describe(self.packer, wrapper)
        deployed = await deploy(
            http, spec, ephemeral=ephemeral, progress=progress or self.output.build_event
        )
        wrapper.set_deployed(self, deployed)
        if follow:
            await self.output.follow(deployed.deployment_id)
        return deployed

    def close(self) -> None:
        """Print what is still to come, and let go of everything. Called at the interpreter's exit."""
        if self.pid == os.getpid() and background().alive:
            finishing = asyncio.run_coroutine_threadsafe(self._finish(), background().loop)
            try:
                finishing.result(CLOSE_S)
            except (TimeoutError, GlowplugError, OSError):
                finishing.cancel()
        if self._platform is not None and self.pid == os.getpid():
            self._platform.stop()

    async def _finish(self) -> None:
        await self.output.drain()
        await self.http.close()

    def _may_start_one(self) -> bool:
        return self.may_start and self.http.profile.is_local

    async def _answers(self) -> bool:
        try:
            await self.http.request("GET", "/health", patience_s=PROBE_PATIENCE_S, fine=(503,))
        except GlowplugError:
            return False
        return True

    async def _start_platform(self) -> None:
        self._platform = await in_thread(start_local)
        old = self.http.profile
        self.http.profile = Profile(
            old.name, (self._platform.url,), self._platform.token, given=True
        )
        await self.http.close()
        self.http.forget()


_sessions: list[Session] = []
_lock = threading.Lock()


def current_session() -> Session:
    """Return the program's session, made at the first call (and anew after a fork)."""
    if _sessions and _sessions[0].pid == os.getpid():
        return _sessions[0]
    with _lock:
        if not (_sessions and _sessions[0].pid == os.getpid()):
            _sessions[:] = [Session(load_profile(), quiet=is_quiet())]
        return _sessions[0]


def use_session(session: Session) -> None:
    """Make a session the program's; the command line does, with the profile it was given."""
    with _lock:
        _sessions[:] = [session]


def close_session() -> None:
    """End the program's session, if it has one; the next use makes another."""
    with _lock:
        ending = list(_sessions)
        _sessions.clear()
    for session in ending:
        session.close()


atexit.register(close_session)
