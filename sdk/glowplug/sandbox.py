"""Sandboxes: an isolated environment that a program drives step by step.

`Sandbox(...).create()` returns a SandboxInstance; its `process` runs code (variables persist within a
context) and commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from glowplug.image import Image, parse_env
from glowplug.model import Model, parse_models
from glowplug.parameters import refuse_method, refuse_parameters
from glowplug.policies import FOREVER
from glowplug.reach import parse_network
from glowplug.secret import Secret, parse_secrets
from glowplug.twins import blocking, blocking_static
from glowplug.units import Cpu, parse_cpu_need, parse_disk, parse_gpu, parse_memory
from glowplug.volume import Volume, parse_volumes

if TYPE_CHECKING:
    from glowplug.client.sandboxes import Running

KEEP_WARM_S = 600.0
CPU_CORES = 1.0
Write = Callable[[str], None]


@dataclass(frozen=True)
class CodeError:
    """The exception that ended a piece of code.

    Attributes:
        name: of its class.
        value: its text.
        traceback: the frames of the code, as text.
    """

    name: str
    value: str
    traceback: str


@dataclass
class CodeResult:
    """What a piece of code did.

    Attributes:
        stdout, stderr: everything it wrote.
        result: what its last line's expression was, as `repr` shows it; None where there is none.
        exit_code: 0, or 1 for code that raised; a command's own.
        error: the exception that ended it.
    """

    stdout: str = ""
    stderr: str = ""
    result: str | None = None
    exit_code: int | None = None
    error: CodeError | None = None


class Sandbox:
    """What a sandbox needs. Nothing happens before `create`."""

    def __init__(  # noqa: PLR0913 - the parameters are the public surface
        self,
        *,
        image: Image | None = None,
        cpu: Cpu | None = None,
        memory: int | str | tuple[int | str, int | str] | None = None,
        ephemeral_disk: int | str | None = None,
        gpu: str | Sequence[str] = "",
        gpu_count: int | None = None,
        gpu_memory: int | str | None = None,
        env: Mapping[str, str] | Sequence[str] | None = None,
        keep_warm_seconds: float = KEEP_WARM_S,
        block_network: bool | None = None,
        allow_list: Sequence[str] | None = None,
        secrets: Sequence[Secret | str] | None = None,
        volumes: Sequence[Volume] | None = None,
        models: Sequence[Model] | Mapping[str, Model] | None = None,
        **others: Any,
    ) -> None:
        refuse_parameters("Sandbox", others)
        if image is not None and not isinstance(image, Image):
            raise TypeError(f"image={image!r}: give an Image")
        if keep_warm_seconds != FOREVER and not keep_warm_seconds > 0:
            raise ValueError(
                f"keep_warm_seconds={keep_warm_seconds!r}: give seconds, or -1 for ever"
            )
        self.image = image or Image()
        self.cpu = parse_cpu_need(CPU_CORES if cpu is None else cpu)
        self.memory = parse_memory(memory)
        self.disk_bytes = parse_disk(ephemeral_disk)
        self.gpu = parse_gpu(gpu, gpu_count, gpu_memory)
        self.env = parse_env("env", env)
        self.keep_warm_seconds = float(keep_warm_seconds)
        self.network = parse_network(block_network, allow_list)
        self.secrets = parse_secrets(secrets)
        self.volumes = parse_volumes(volumes)
        self.models = parse_models(models)

    @blocking
    async def create(self) -> SandboxInstance:
        """Start it; returns when it runs.

        Raises: ImageBuildError, NoCapacityError, StartupError.
        """
        from glowplug.client.sandboxes import create_sandbox  # noqa: PLC0415

        return SandboxInstance(await create_sandbox(self))

    @blocking_static
    @staticmethod
    async def connect(sandbox_id: str) -> SandboxInstance:
        """Return the running sandbox with this id.

        Raises: NotFoundError.
        """
        from glowplug.client.sandboxes import connect_sandbox  # noqa: PLC0415

        return SandboxInstance(await connect_sandbox(sandbox_id))


class SandboxInstance:
    """A sandbox that runs. As a context manager it is terminated at the end.

    Attributes:
        process: runs code and commands in it.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self.process = SandboxProcesses(running)

    @property
    def sandbox_id(self) -> str:
        """Its id; another program reaches it with `Sandbox.connect`."""
        return self._running.sandbox_id

    @property
    def id(self) -> str:
        """Its id."""
        return self._running.sandbox_id

    @blocking
    async def status(self) -> str:
        """Return "starting", "running", "terminated" or "failed"."""
        return str((await self._running.record())["state"])

    @blocking
    async def terminate(self) -> None:
        """End it, with everything that runs in it; nothing happens if it has ended."""
        await self._running.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.terminate.aio()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        refuse_method("Sandbox", name)

    def __repr__(self) -> str:
        return f"SandboxInstance({self._running.sandbox_id!r})"


class SandboxProcesses:
    """What runs in a sandbox."""

    def __init__(self, running: Running) -> None:
        self._running = running

    @blocking
    async def run_code(
        self,
        code: str,
        *,
        context: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the user's word
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        on_stdout: Write | None = None,
        on_stderr: Write | None = None,
    ) -> CodeResult:
        """Run Python code and wait for its end.

        Args:
            code: any number of lines; the value of a last expression becomes `result`.
            context: variables persist among calls with the same one; None is one of them.
            timeout: seconds after which it is stopped.
            env: variables for this call.
            cwd: folder for this call.
            on_stdout: called with each piece of output as it comes; on_stderr likewise.
        """
        body = {
            "mode": "code",
            "code": code,
            "context": context or "default",
            "env": parse_env("env", env),
            "cwd": cwd,
            "timeout_s": timeout or 0.0,
        }
        return await self._running.run(body, on_stdout, on_stderr)

    @blocking
    async def exec(
        self,
        *args: str,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        on_stdout: Write | None = None,
        on_stderr: Write | None = None,
    ) -> CodeResult:
        """Run a program with its arguments and wait for its end."""
        if not args or not all(isinstance(arg, str) for arg in args):
            raise TypeError('exec() takes a program and its arguments: exec("ls", "-l")')
        body = {
            "mode": "command",
            "argv": list(args),
            "env": parse_env("env", env),
            "cwd": cwd,
            "timeout_s": timeout or 0.0,
        }
        return await self._running.run(body, on_stdout, on_stderr)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        refuse_method("process", name)
