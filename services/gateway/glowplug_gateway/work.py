"""What a call becomes: messages made from a deployment and what the caller sent; and back to errors."""

from __future__ import annotations

from glowplug_contracts.errors import (
    ConflictError,
    DeadlineExceededError,
    InvalidRequestError,
    NoSuchCapacityError,
    NotFoundError,
    OverloadedError,
    PlatformError,
    QuotaExceededError,
    RejectedError,
    UnavailableError,
)
from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.invocation import (
    PLATFORM_RETRIES_MAX,
    Input,
    InputOutcome,
    InvocationRequested,
    RemoteError,
)
from glowplug_contracts.messages.record import InvocationRecord

from glowplug_gateway.blobs import LEASE_S_MAX
from glowplug_gateway.calls import HeldCall
from glowplug_gateway.ports import Platform

# How long durable work with large arguments may wait to be started, where its function says no less.
BLOB_WAIT_S_MAX = 30 * 86_400.0
# What waits for a container again between two tries, at most as far as the lease counts.
BETWEEN_TRIES_S = 86_400.0


def interactive(
    platform: Platform,
    deployment: Deployment,
    invocation_id: InvocationId,
    inputs: tuple[Input, ...],
    trace: str,
    *,
    deadline_s: float = 0.0,
    first: bool = False,
) -> InvocationRequested:
    """Return the request for a call whose caller waits. `first`: its id was never sent before."""
    spec = deployment.spec
    return InvocationRequested(
        invocation_id=invocation_id,
        workspace=deployment.workspace,
        deployment_id=deployment.deployment_id,
        inputs=inputs,
        reply_to=platform.instance,
        priority=spec.priority,
        deadline_s=deadline_s,
        stream=spec.is_generator,
        accepted_at=platform.clock.unix(),
        trace=trace,
        retry=spec.retry,
        first=first,
    )


def arguments_needed_s(record: InvocationRecord) -> float:
    """Return after how many seconds no attempt of a record reads its arguments any more."""
    wait_s = record.expires_at - record.accepted_at if record.expires_at else BLOB_WAIT_S_MAX
    retries = record.retry.max_retries
    tries = 1 + retries + PLATFORM_RETRIES_MAX
    run_s = record.timeout_s if record.timeout_s > 0 else LEASE_S_MAX
    return wait_s + tries * (run_s + BETWEEN_TRIES_S) + retries * record.retry.max_delay_s


def outcome_of(held: HeldCall) -> InputOutcome:
    """Return the outcome of a single call that is done.

    Raises: PlatformError where the platform, and not the user's code, failed.
    """
    if held.gave_up is None:
        return held.outcomes[0]
    return given_up(held, 0)


def given_up(held: HeldCall, index: int) -> InputOutcome:
    """Return the error that stands for an input which the platform gave up.

    Raises: PlatformError likewise.
    """
    gave_up = held.gave_up
    if gave_up is None:
        raise PlatformError("platform.bug", f"{held.request.invocation_id} was not given up")
    if gave_up.error.code in _OF_PLATFORM:
        raise platform_error(gave_up.error)
    return InputOutcome(index=index, state=gave_up.state, error=gave_up.error)


def platform_error(error: RemoteError) -> PlatformError:
    """Return the exception that carries this error to the HTTP door."""
    kind = _TYPES.get(error.code, RejectedError)
    retry_after_s = 1.0 if kind in (OverloadedError, UnavailableError) else None
    return kind(error.code, error.message, retry_after_s=retry_after_s, details=dict(error.details))


# Codes of calls that the platform failed: they are HTTP errors, where the function's own failures are
# answers.
_OF_PLATFORM = frozenset(
    {
        "invocation.lost",
        "invocation.deadline",
        "scheduler.overloaded",
        "platform.unavailable",
        "deployment.not_found",
    }
)

_TYPES: dict[str, type[PlatformError]] = {
    "request.invalid": InvalidRequestError,
    "request.not_yet": InvalidRequestError,
    "invocation.lost": UnavailableError,
    "invocation.deadline": DeadlineExceededError,
    "invocation.conflict": ConflictError,
    "invocation.not_found": NotFoundError,
    "invocation.queue_full": QuotaExceededError,
    "scheduler.overloaded": OverloadedError,
    "scheduler.no_worker_fits": NoSuchCapacityError,
    "deployment.not_found": NotFoundError,
    "sandbox.not_found": NotFoundError,
    "image.not_found": NotFoundError,
    "platform.unavailable": UnavailableError,
    "platform.bug": PlatformError,
}
