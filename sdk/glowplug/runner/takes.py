"""Functions that are not called with arguments: with an event, a list of them, or a whole HTTP request.

The arguments say which ("takes"): the router and the gateway write them. Loaded only then.
"""

from __future__ import annotations

import time

from glowplug.events import BatchFailedError, Event
from glowplug.runner import failures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from glowplug.runner.context import Context

FAILURES = "batchItemFailures"
IDENTIFIER = "itemIdentifier"
ITEMS_FAILED = "function.items_failed"


class RequestContext:
    """The second argument of `lambda_handler(event, context)`: what AWS's has, and ours beside it."""

    def __init__(self, context: Context, name: str) -> None:
        self._context = context
        self._until = time.monotonic() + context.timeout if context.timeout else None
        self.aws_request_id = context.task_id
        self.function_name = name
        self.function_version = "$LATEST"
        self.invoked_function_arn = ""
        self.log_group_name = self.log_stream_name = context.container_id

    def get_remaining_time_in_millis(self) -> int:
        """Return how long it may still run; a day where there is no time-out."""
        if self._until is None:
            return 86_400_000
        return max(0, int((self._until - time.monotonic()) * 1000))

    def __getattr__(self, name: str) -> object:
        return getattr(self._context, name)


def convert(takes: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments as the function gets them."""
    if takes == "event":
        return (Event.from_json(args[0]),)
    if takes == "events":
        return ([Event.from_json(each) for each in args[0]],)
    return args


def failed_of(value: object, events: list[Event]) -> tuple[int, ...] | None:
    """Return which events a result names as failed; None where it is an ordinary result.

    Unknown identifiers fail the whole batch: the handler means something that we can't know.
    """
    if not isinstance(value, dict) or FAILURES not in value:
        return None
    failures_named = value[FAILURES] or ()
    named = [each.get(IDENTIFIER) if isinstance(each, dict) else None for each in failures_named]
    return indexes_of(named, events)


def indexes_of(named: Any, events: list[Event]) -> tuple[int, ...]:
    """Return the places of the events with these ids; all places if one is unknown."""
    wanted = set(named)
    if not wanted <= {event.id for event in events}:
        return tuple(range(len(events)))
    return tuple(at for at, event in enumerate(events) if event.id in wanted)


def items_failed(
    failed: tuple[int, ...], events: list[Event], error: BaseException | None, source: str
) -> dict[str, object]:
    """Return the RemoteError that hands these events back."""
    names = ", ".join(events[at].id for at in failed[:5]) + (" …" if len(failed) > 5 else "")  # noqa: PLR2004
    message = f"{len(failed)} of {len(events)} events failed: {names}"
    if isinstance(error, BatchFailedError):
        told = failures.remote_error(error, ITEMS_FAILED, source=source)
        told["message"] = f"{error} ({message})"
    else:
        told = failures.plain_error(ITEMS_FAILED, "BatchFailedError", message)
    details = told["details"]
    assert isinstance(details, dict)  # noqa: S101 - both make one
    details["failed_items"] = list(failed)
    return told
