"""Every error that crosses a process boundary, and who must act on it.

    PlatformError                        code, message, retry_after_s
    ├── RejectedError                    the caller must change something
    │   ├── InvalidRequestError   422    ├── UnauthenticatedError 401   ├── ForbiddenError 403
    │   ├── NotFoundError         404    ├── ConflictError        409   ├── QuotaExceededError 429
    │   └── NoSuchCapacityError   507
    ├── TransientError                   time will help
    │   ├── OverloadedError       429    ├── UnavailableError     503   └── DeadlineExceededError 504
    │   └── LeaseLostError        503
    ├── UserCodeError                    the user's code raised, crashed or overran
    ├── ContractError                    a message that can't be read, or is newer than we are
    └── InvariantError                   our bug: stop this unit of work, loudly

`code` is `area.reason`, registered in `CODES`; the words may change, the code may not.
"""

from __future__ import annotations

from typing import Final, Literal

Actor = Literal["user", "operator", "us"]


class PlatformError(Exception):
    """Base of every error of the platform.

    Attributes:
        code: `area.reason`, a key of `CODES`.
        message: what failed, why, and what to do next.
        retry_after_s: seconds after which trying again makes sense; None where it does not.
        details: figures that belong to the error (limit, peak, exit code …); JSON values only.
    """

    http_status = 500

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details or {}

    def __str__(self) -> str:
        return self.message


class RejectedError(PlatformError):
    """The caller must change something; trying the same again can't help."""

    http_status = 400


class InvalidRequestError(RejectedError):
    """The request is not well formed; `details["fields"]` maps field paths to what is wrong."""

    http_status = 422


class UnauthenticatedError(RejectedError):
    """No token, or one nobody knows."""

    http_status = 401


class ForbiddenError(RejectedError):
    """Known, and not allowed."""

    http_status = 403


class NotFoundError(RejectedError):
    """No such thing, or not yours."""

    http_status = 404


class ConflictError(RejectedError):
    """Somebody else was first."""

    http_status = 409


class QuotaExceededError(RejectedError):
    """A limit of the deployment or workspace is reached."""

    http_status = 429


class NoSuchCapacityError(RejectedError):
    """No worker could ever run this."""

    http_status = 507


class TransientError(PlatformError):
    """Time will help."""

    http_status = 503


class OverloadedError(TransientError):
    """A bounded queue is full."""

    http_status = 429


class UnavailableError(TransientError):
    """A part that is needed does not answer."""

    http_status = 503


class DeadlineExceededError(TransientError):
    """The caller's deadline passed first."""

    http_status = 504


class LeaseLostError(TransientError):
    """Another replica owns this now."""


class UserCodeError(PlatformError):
    """The user's code raised, crashed or overran; carries their traceback, never ours."""


class ContractError(PlatformError):
    """A message that can't be read, or was written by a newer platform."""


class InvariantError(PlatformError):
    """Our bug."""


# code -> (who must act, what to do). Generated into docs/errors.md.
CODES: Final[dict[str, tuple[Actor, str]]] = {
    "request.bad_id": ("user", "Pass the id exactly as the platform returned it."),
    "request.bad_digest": (
        "user",
        "Upload the blob again; the digest is 64 hexadecimal characters.",
    ),
    "request.bad_name": ("user", "Rename the app or function."),
    "request.bad_token": ("user", "Use letters, digits, '-' and '_' only."),
    "request.invalid": ("user", "Correct the fields that the answer names."),
    "request.too_large": ("user", "Send less, or pass large data as a blob."),
    "request.not_yet": ("user", "Leave the parameter out; a later release brings it."),
    "auth.no_token": (
        "user",
        "Send `Authorization: Bearer <token>`; `glowplug config show` prints yours.",
    ),
    "auth.bad_token": (
        "user",
        "The token is unknown or revoked; take the one of the current profile.",
    ),
    "auth.forbidden": ("user", "Ask the workspace's owner for the right."),
    "container.gpu_lost": (
        "operator",
        "The driver gave up a GPU; `glowplug worker show` says why. The work runs again elsewhere.",
    ),
    "container.image_lost": (
        "operator",
        "A helper of the worker was killed; its log says when. The work runs again elsewhere.",
    ),
    "container.too_many_requests": (
        "user",
        "Wait for some of the answers before asking for more from inside one container.",
    ),
    "secret.not_found": ("user", "`glowplug secret list` names what is kept."),
    "secret.exists": ("user", "`glowplug secret rotate` changes a secret."),
    "secret.no_key": ("operator", "Give the gateways a master key file of 32 random bytes."),
    "secret.unreadable": (
        "operator",
        "Start the gateways with the master key under which the secrets were sealed.",
    ),
    "network.closed": (
        "operator",
        "Name the private network in GLOWPLUG_WORKER_NETWORK_OPEN, or take it off the list.",
    ),
    "network.unsupported": (
        "operator",
        "Run the worker as root with GLOWPLUG_WORKER_NETWORK=auto, or ask for less.",
    ),
    "volume.not_found": ("user", "`glowplug volume list` names the volumes."),
    "volume.no_file": ("user", "`glowplug volume ls` shows what is in the volume."),
    "store.full": (
        "user",
        "`glowplug image usage` says what you have; prune images, or have the operator raise the quota.",
    ),
    "volume.full": (
        "user",
        "`glowplug volume usage` says what it holds; remove files, or have the operator raise the quota.",
    ),
    "volume.none_here": ("operator", "Give gateways and workers one directory for volumes."),
    "volume.not_here": (
        "operator",
        "Mount the directory of the volumes on every machine that runs a worker, or run workers on one.",
    ),
    "model.not_found": (
        "user",
        "`glowplug model list` names the models; `glowplug model pull` brings one.",
    ),
    "model.not_ready": ("user", "Wait until `glowplug model show` says ready, or pull it again."),
    "model.bad_source": ("user", "Name a source as the message says."),
    "model.refused": ("user", "The message names the file that no model may have; leave it out."),
    "model.too_large": ("user", "Leave files out, or have the operator raise the bound."),
    "model.incomplete": ("user", "Upload again: only what is missing is sent."),
    "model.denied": (
        "user",
        "Name a secret with the source's token (HF_TOKEN), and accept the model's terms there.",
    ),
    "model.no_source": ("user", "Check the repository's name and revision."),
    "model.forbidden": (
        "operator",
        "The source has no public address; name its network in the setting that opens it.",
    ),
    "model.corrupt": (
        "operator",
        "The source sends bytes that do not match their digest; look what is between.",
    ),
    "model.unavailable": (
        "operator",
        "The source does not answer or breaks off; pull again, which goes on where it ended.",
    ),
    "model.no_room": (
        "operator",
        "Free room on the disk of imagecache; the pull can be tried again.",
    ),
    "output.not_found": ("user", "It was never saved, was removed, or its time is over."),
    "output.bad_link": (
        "user",
        "Make a new address with `glowplug output url`; none can be changed.",
    ),
    "output.link_expired": ("user", "Make a new address with `glowplug output url`."),
    "output.too_many": ("user", "Save fewer, larger files, or write them to a volume."),
    "output.none_here": (
        "user",
        "Save an output in code that runs for a call or a task.",
    ),
    "state.unsure": (
        "user",
        "The broker did not answer in time; read the value before you change it again.",
    ),
    "state.not_found": ("user", "Nothing is kept under this name or key."),
    "deployment.not_found": ("user", "`glowplug deployment list` names what is deployed."),
    "deployment.conflict": ("user", "Another deploy of the same name won; deploy again."),
    "deployment.python_mismatch": ("user", "Deploy with the Python version that the image runs."),
    "invocation.not_found": ("user", "The id is unknown, or its record has expired."),
    "invocation.conflict": ("user", "The same id was used with other arguments; use a new id."),
    "invocation.expired": (
        "user",
        "It did not start within its ttl; give it longer, or let more containers work.",
    ),
    "invocation.key_reused": (
        "user",
        "The idempotency key stands for other work; use a new key, or the same arguments.",
    ),
    "invocation.predecessor_failed": (
        "user",
        "What it waited for did not succeed; the failed task's id is in the answer.",
    ),
    "invocation.predecessor_gone": (
        "user",
        "The result it was to get is not kept any more; raise keep_result_seconds.",
    ),
    "invocation.queue_full": (
        "user",
        "Wait as long as Retry-After says, or raise max_pending_tasks.",
    ),
    "invocation.deadline": (
        "user",
        "Give the call a longer time-out, or look why it waits: `glowplug trace ID`.",
    ),
    "invocation.lost": ("operator", "The platform lost the work more often than it may retry."),
    "invocation.cancelled": ("user", "The call was cancelled."),
    "function.failed": ("user", "The function raised; its traceback is in the answer."),
    "function.timeout": ("user", "The function ran longer than `timeout`; raise it or do less."),
    "function.crashed": (
        "user",
        "The process ended by itself; exit code, signal and last lines are attached.",
    ),
    "function.out_of_memory": ("user", "Raise `memory`; limit and peak are attached."),
    "function.start_failed": (
        "user",
        "Importing the code or on_start raised; its traceback is attached.",
    ),
    "function.bad_result": (
        "user",
        "The result can't be sent; return something that pickles, or JSON over HTTP.",
    ),
    "function.items_failed": (
        "user",
        "Some items of a batch failed; they come back alone, or are its dead letter.",
    ),
    "event.invalid": ("user", "Correct the attribute that the answer names, and send it again."),
    "event.bad_pattern": ("user", "Correct the pattern, filter, batch or window of the trigger."),
    "event.not_found": ("user", "No such event is kept; `glowplug event tail` lists what is."),
    "blob.not_found": ("user", "The blob was never stored, or its time is over; send it again."),
    "image.build_failed": (
        "user",
        "A build step failed; the step and its last output are attached.",
    ),
    "image.unsupported": (
        "user",
        "The image asks for what this base can't do; the message says what can.",
    ),
    "image.in_use": (
        "user",
        "The message names what needs the image; delete that first.",
    ),
    "image.not_found": ("operator", "The image's manifest or chunks are gone; deploy again."),
    "image.corrupt": ("operator", "A chunk's bytes do not match its name; see `glowplug doctor`."),
    "layer.corrupt": (
        "user",
        "A layer is cut off or is not what the image's configuration names; push the image again.",
    ),
    "layer.refused": ("user", "The message names what an image may not hold; build it without."),
    "layer.too_large": ("user", "The image is larger than the platform unpacks; make it smaller."),
    "registry.bad_reference": (
        "user",
        "Write an image like 'debian:12' or 'registry.example:5000/team/app@sha256:…'.",
    ),
    "registry.corrupt": (
        "operator",
        "The registry or a mirror sends bytes that do not match their digest; look what is between.",
    ),
    "registry.denied": (
        "user",
        "Give credentials that may pull the image, and check its name.",
    ),
    "registry.forbidden": (
        "operator",
        "The registry has no public address; name its network in the setting that opens it.",
    ),
    "registry.no_platform": (
        "user",
        "Use an image that is built for the workers' platform; the message lists what there is.",
    ),
    "registry.no_room": (
        "operator",
        "Free room on the disk of imagecache; the pull can be tried again.",
    ),
    "registry.not_found": ("user", "Check the image's name and tag."),
    "registry.rate_limited": (
        "user",
        "Wait as long as the answer says, give credentials, or have a mirror set up.",
    ),
    "registry.unavailable": (
        "operator",
        "The registry does not answer or breaks off; try again, or name a mirror.",
    ),
    "registry.unsupported": (
        "user",
        "The image has a form that can't be run here; the message says which can.",
    ),
    "sandbox.failed": ("user", "Its container ended and what was in it is gone; create a new one."),
    "sandbox.overloaded": ("operator", "Too many sandboxes start at once; retry, or add replicas."),
    "sandbox.not_found": ("user", "The sandbox has ended or never was."),
    "scheduler.no_worker_fits": (
        "operator",
        "No live worker is large enough; the reasons are attached.",
    ),
    "scheduler.overloaded": ("operator", "A shard's queue is full; slow down or add shards."),
    "schedule.not_found": (
        "user",
        "`glowplug schedule list` names the schedules; deploy a function with @schedule first.",
    ),
    "worker.not_found": ("operator", "`glowplug worker list` names the workers that are alive."),
    "worker.refused": ("us", "The worker would not take it; it is tried elsewhere."),
    "worker.limit_not_held": (
        "operator",
        "The message says which limit and which backend would hold it; `glowplug doctor` shows why.",
    ),
    "platform.unavailable": ("operator", "`glowplug status` names the part that does not answer."),
    "platform.lease_lost": ("us", "Another replica took over; nothing to do."),
    "platform.contract": (
        "operator",
        "Upgrade the older service; versions must not be that far apart.",
    ),
    "platform.bug": ("us", "Please report it with the story that the log holds."),
}
