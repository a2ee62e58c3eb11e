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
    Input,
    InputOutcome,
    InvocationRecord,
    InvocationRequested,
    Payload,
    RemoteError,
)

from glowplug_gateway.calls import HeldCall
from glowplug_gateway.ports import Platform


def interactive(
    platform: Platform,
    deployment: Deployment,
    invocation_id: InvocationId,
    inputs: tuple[Input, ...],
    trace: str,
    *,
    deadline_s: float = 0.0,
) -> InvocationRequested:
    """Return the request for a call whose caller waits."""
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
    )


def durable(
    platform: Platform,
    deployment: Deployment,
    invocation_id: InvocationId,
    args: Payload,
    trace: str,
) -> InvocationRecord:
    """Return the record for work that is kept until it has ended. Raises: InvalidRequestError."""
    spec, now = deployment.spec, platform.clock.unix()
    if spec.is_generator:
        raise InvalidRequestError(
            "request.invalid", f"{spec.name} is a generator: its items need a caller that waits"
        )
    return InvocationRecord(
        invocation_id=invocation_id,
        workspace=deployment.workspace,
        deployment_id=deployment.deployment_id,
        input=Input(args=args),
        priority=spec.priority,
        timeout_s=spec.timeout_s,
        retry=spec.retry,
        accepted_at=now,
        expires_at=now + spec.expires_s if spec.expires_s > 0 else 0.0,
        trace=trace,
    )


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
    {"invocation.lost", "invocation.deadline", "scheduler.overloaded", "platform.unavailable"}
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
    "sandbox.not_found": NotFoundError,
    "image.not_found": NotFoundError,
    "platform.unavailable": UnavailableError,
    "platform.bug": PlatformError,
}
