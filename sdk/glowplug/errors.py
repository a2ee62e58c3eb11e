"""Every exception that a program using Glowplug may see.

    GlowplugError                       code, details, retry_after_s
    ├── NotYetSupportedError            the name or parameter comes with a later release
    ├── RequestError                    the caller must change something
    │   ├── InvalidInputError           ├── UnauthenticatedError   ├── ForbiddenError
    │   ├── NotFoundError               ├── ConflictError          ├── QueueFullError
    │   ├── IdempotencyKeyReusedError (a ConflictError)
    │   ├── NoCapacityError             ├── SourceTooLargeError    └── PythonVersionMismatchError
    ├── UnavailableError                time will help
    │   ├── DeadlineExceededError       └── InvocationLostError
    ├── ResultTimeoutError              `get(timeout)` waited long enough; the call goes on
    ├── CallCancelledError              somebody cancelled it; TaskExpiredError: its ttl was over
    ├── PredecessorFailedError          what it waited for did not succeed
    ├── ImageBuildError                 a build step failed
    └── FunctionError                   the function's process or code
        ├── OutOfMemoryError  ├── ContainerCrashedError  ├── FunctionTimeoutError
        ├── StartupError      ├── BadResultError         └── RemoteUserError

An exception of the user's own code is not here: it arrives as itself. Only one that can't be carried
over becomes a RemoteUserError that keeps its class name, message and traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class GlowplugError(Exception):
    """Base of everything that Glowplug raises itself.

    Attributes:
        code: `area.reason`; stable, unlike the words.
        details: figures that belong to the error.
        retry_after_s: seconds after which trying again makes sense; None where it does not.
    """

    default_code = "platform.bug"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        details: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "code": self.code,
            "details": self.details,
            "retry_after_s": self.retry_after_s,
            "__notes__": list(getattr(self, "__notes__", [])),
        }
        return (type(self), (self.message,), state)


class NotYetSupportedError(GlowplugError, NotImplementedError):
    """Part of Glowplug's surface, but not of this release."""

    default_code = "request.not_yet"


class ConfigurationError(GlowplugError):
    """The profile or an environment variable can't be used; the message says which."""

    default_code = "request.invalid"


class RequestError(GlowplugError):
    """The caller must change something; trying the same again can't help."""

    default_code = "request.invalid"


class InvalidInputError(RequestError, ValueError):
    """Arguments do not fit `inputs`; `details["fields"]` maps field paths to what is wrong."""


class UnauthenticatedError(RequestError):
    """No token, or one that the platform does not know."""

    default_code = "auth.bad_token"


class ForbiddenError(RequestError):
    """Known, and not allowed."""

    default_code = "auth.forbidden"


class NotFoundError(RequestError, LookupError):
    """No such thing, or not yours."""

    default_code = "deployment.not_found"


class ConflictError(RequestError):
    """Somebody else was first."""

    default_code = "deployment.conflict"


class IdempotencyKeyReusedError(ConflictError):
    """The idempotency key stands for other work, whose id is in `details["task_id"]`."""

    default_code = "invocation.key_reused"


class QueueFullError(RequestError):
    """`max_pending_tasks`, or a quota, is reached."""

    default_code = "invocation.queue_full"


class NoCapacityError(RequestError):
    """No worker could ever run this; the message says why for each."""

    default_code = "scheduler.no_worker_fits"


class SourceTooLargeError(RequestError):
    """The project is over 100 MiB or 10,000 files; the message names the five largest."""

    default_code = "request.too_large"


class PythonVersionMismatchError(RequestError):
    """What was pickled by one Python version can't be read by the other."""

    default_code = "deployment.python_mismatch"


class UnavailableError(GlowplugError):
    """The platform, or a part that is needed, does not answer."""

    default_code = "platform.unavailable"


class DeadlineExceededError(UnavailableError, TimeoutError):
    """The call's deadline passed before the platform could answer."""

    default_code = "invocation.deadline"


class InvocationLostError(UnavailableError):
    """The platform lost the work more often than it may retry."""

    default_code = "invocation.lost"


class ResultTimeoutError(GlowplugError, TimeoutError):
    """`get(timeout)` waited that long; the invocation goes on."""

    default_code = "invocation.deadline"


class CallCancelledError(GlowplugError):
    """The invocation was cancelled."""

    default_code = "invocation.cancelled"


class TaskExpiredError(CallCancelledError):
    """It did not start within its `ttl`, and never will."""

    default_code = "invocation.expired"


class PredecessorFailedError(GlowplugError):
    """What it waited for did not succeed, so it was never run; `details["task_id"]` names that."""

    default_code = "invocation.predecessor_failed"


class ImageBuildError(GlowplugError):
    """A step of the image's build failed.

    Attributes:
        step: which one.
        output: the last lines it wrote.
    """

    default_code = "image.build_failed"

    @property
    def step(self) -> str:
        """The step that failed."""
        return str(self.details.get("step", ""))

    @property
    def output(self) -> str:
        """The last lines that the step wrote."""
        return str(self.details.get("output", ""))


class FunctionError(GlowplugError):
    """The function's process or code failed.

    Attributes:
        remote_traceback: the user's frames with their source lines, as text; may be empty.
    """

    default_code = "function.failed"

    @property
    def remote_traceback(self) -> str:
        """The user's frames, as text."""
        return str(self.details.get("traceback", ""))

    @property
    def last_lines(self) -> list[str]:
        """The last lines that the function wrote, where they are known."""
        return [str(line) for line in self.details.get("last_lines", [])]


class OutOfMemoryError(FunctionError, MemoryError):
    """The container used more memory than its limit and was killed."""

    default_code = "function.out_of_memory"

    @property
    def limit(self) -> int | None:
        """The limit in bytes."""
        return _whole(self.details.get("limit_bytes"))

    @property
    def peak(self) -> int | None:
        """The most that was seen in use, in bytes."""
        return _whole(self.details.get("peak_bytes"))


class ContainerCrashedError(FunctionError):
    """The process ended by itself: `sys.exit`, a signal, a crash in C code."""

    default_code = "function.crashed"

    @property
    def exit_code(self) -> int | None:
        """How the process ended, if it exited."""
        return _whole(self.details.get("exit_code"))

    @property
    def signal(self) -> int | None:
        """The signal that ended it, if one did."""
        return _whole(self.details.get("signal"))


class FunctionTimeoutError(FunctionError, TimeoutError):
    """It ran longer than `timeout` and was killed."""

    default_code = "function.timeout"


class StartupError(FunctionError):
    """Importing the code, or `on_start`, raised; `remote_traceback` has the frames."""

    default_code = "function.start_failed"


class BadResultError(FunctionError):
    """The result can't be sent: it does not pickle, or does not fit `outputs`."""

    default_code = "function.bad_result"


class RemoteUserError(FunctionError):
    """An exception of the user's code whose class can't be carried over.

    Attributes:
        type_name: the class's name there.
    """

    @property
    def type_name(self) -> str:
        """The name of the exception's class."""
        return str(self.details.get("type", "Exception"))


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


CLASSES: dict[str, type[GlowplugError]] = {
    "request.bad_id": RequestError,
    "request.bad_digest": RequestError,
    "request.bad_name": RequestError,
    "request.bad_token": RequestError,
    "request.invalid": InvalidInputError,
    "request.too_large": RequestError,
    "request.not_yet": NotYetSupportedError,
    "auth.no_token": UnauthenticatedError,
    "auth.bad_token": UnauthenticatedError,
    "auth.forbidden": ForbiddenError,
    "deployment.not_found": NotFoundError,
    "deployment.conflict": ConflictError,
    "deployment.python_mismatch": PythonVersionMismatchError,
    "invocation.not_found": NotFoundError,
    "invocation.conflict": ConflictError,
    "invocation.expired": TaskExpiredError,
    "invocation.key_reused": IdempotencyKeyReusedError,
    "invocation.predecessor_failed": PredecessorFailedError,
    "invocation.predecessor_gone": PredecessorFailedError,
    "invocation.queue_full": QueueFullError,
    "invocation.deadline": DeadlineExceededError,
    "invocation.lost": InvocationLostError,
    "invocation.cancelled": CallCancelledError,
    "function.failed": RemoteUserError,
    "function.timeout": FunctionTimeoutError,
    "function.crashed": ContainerCrashedError,
    "container.gpu_lost": ContainerCrashedError,
    "container.image_lost": ContainerCrashedError,
    "function.out_of_memory": OutOfMemoryError,
    "function.start_failed": StartupError,
    "function.bad_result": BadResultError,
    "image.build_failed": ImageBuildError,
    "image.unsupported": RequestError,
    "image.not_found": UnavailableError,
    "image.corrupt": UnavailableError,
    "sandbox.not_found": NotFoundError,
    "secret.not_found": NotFoundError,
    "secret.exists": ConflictError,
    "secret.no_key": RequestError,
    "secret.unreadable": RequestError,
    "state.not_found": NotFoundError,
    "volume.not_found": NotFoundError,
    "volume.no_file": NotFoundError,
    "volume.full": RequestError,
    "volume.none_here": RequestError,
    "volume.not_here": RequestError,
    "model.not_found": NotFoundError,
    "model.not_ready": ConflictError,
    "model.bad_source": RequestError,
    "model.refused": InvalidInputError,
    "model.too_large": RequestError,
    "model.incomplete": RequestError,
    "model.denied": UnauthenticatedError,
    "model.no_source": NotFoundError,
    "model.forbidden": ForbiddenError,
    "model.corrupt": UnavailableError,
    "model.unavailable": UnavailableError,
    "model.no_room": UnavailableError,
    "output.not_found": NotFoundError,
    "output.bad_link": ForbiddenError,
    "output.link_expired": ForbiddenError,
    "output.too_many": RequestError,
    "output.none_here": RequestError,
    "state.unsure": DeadlineExceededError,
    "container.too_many_requests": RequestError,
    "scheduler.no_worker_fits": NoCapacityError,
    "scheduler.overloaded": UnavailableError,
    "worker.refused": UnavailableError,
    "worker.limit_not_held": NoCapacityError,
    "platform.unavailable": UnavailableError,
    "platform.lease_lost": UnavailableError,
    "platform.contract": UnavailableError,
    "platform.bug": GlowplugError,
}

STATUSES: dict[int, type[GlowplugError]] = {
    400: RequestError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidInputError,
    429: QueueFullError,
    503: UnavailableError,
    504: DeadlineExceededError,
    507: NoCapacityError,
}


def error_for(
    code: str,
    message: str,
    *,
    status: int = 0,
    details: Mapping[str, object] | None = None,
    retry_after_s: float | None = None,
) -> GlowplugError:
    """Return the exception for a code of the platform (or, unknown code, for an HTTP status)."""
    cls = CLASSES.get(code) or STATUSES.get(status) or GlowplugError
    return cls(message, code=code, details=details, retry_after_s=retry_after_s)
