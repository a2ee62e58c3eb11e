"""What came back, as a Python value or exception.

The one place where the platform's words about a failure become an exception, and the only one that
unpickles a user's exception: for this program's own calls, never in the command line.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glowplug.client.names import JSON, PICKLE, SUCCEEDED
from glowplug.client.wire import load
from glowplug.errors import GlowplugError, error_for

if TYPE_CHECKING:
    from glowplug_contracts.messages.invocation import InputOutcome, RemoteError

_STATES: dict[str, str] = {
    "timed_out": "function.timeout",
    "cancelled": "invocation.cancelled",
    "expired": "invocation.expired",
    "dead": "invocation.lost",
}


@dataclass(frozen=True)
class Ended:
    """How a call ended, with the result's bytes at hand."""

    state: str
    format: str = PICKLE
    data: bytes = b""
    error: RemoteError | None = None
    run_ms: float = 0.0
    invocation_id: str = ""


def value_of(ended: Ended, python_there: str = "") -> object:
    """Return the result, or raise what the call ended in."""
    error, value = settle(ended, python_there)
    if error is not None:
        raise error
    return value


def settle(ended: Ended, python_there: str = "") -> tuple[BaseException | None, object]:
    """Return what the call ended in: an exception to raise, or None and the result."""
    if ended.state != SUCCEEDED:
        return exception_of(ended), None
    return None, read_value(ended.format, ended.data, python_there)


def read_value(form: str, data: bytes, python_there: str = "") -> object:
    """Return the value in a result's bytes."""
    if form == JSON:
        import json  # noqa: PLC0415

        return json.loads(data)
    return load(data, python_there)


def exception_of(ended: Ended) -> BaseException:
    """Return the exception for a call that did not succeed."""
    if ended.error is None:
        code = _STATES.get(ended.state, "function.failed")
        return _with_id(error_for(code, f"the call ended as {ended.state}"), ended)
    return _with_id(remote_exception(ended.error), ended)


def remote_exception(error: RemoteError) -> BaseException:
    """Return the user's own exception where it can be carried over, else the typed one."""
    if error.code == "function.start_failed":
        # What kept the code from starting is the cause of the failure, not the call's own exception.
        found = typed_error(error)
        found.__cause__ = _unpickled(error)
        return found
    own = _unpickled(error)
    if own is None:
        return typed_error(error)
    _note_frames(own, error)
    return own


def _unpickled(error: RemoteError) -> BaseException | None:
    if error.pickled:
        try:
            found = pickle.loads(error.pickled)  # noqa: S301 - only for our own function's exception
        except Exception:  # noqa: BLE001 - its class may not exist here: keep name and text instead
            return None
        if isinstance(found, BaseException):
            return found
    return None


def typed_error(error: RemoteError) -> GlowplugError:
    """Return the platform's exception for an error, without unpickling anything."""
    message = error.message
    if error.code in {"function.failed", "function.start_failed"}:
        message = f"{error.type}: {error.message}" if error.message else error.type
    found = error_for(
        error.code,
        message,
        details={**error.details, "type": error.type, "traceback": error.traceback},
    )
    _note_frames(found, error)
    lines = error.details.get("last_lines")
    if isinstance(lines, list) and lines:
        found.add_note("Last lines it wrote:\n" + "\n".join(f"  {line}" for line in lines))
    return found


def input_ended(outcome: InputOutcome, data: bytes, invocation_id: str) -> Ended:
    """Return one input's end in the form of a call's."""
    return Ended(
        state=outcome.state,
        format=outcome.result.format.value if outcome.result is not None else PICKLE,
        data=data,
        error=outcome.error,
        run_ms=outcome.run_ms,
        invocation_id=invocation_id,
    )


def _note_frames(found: BaseException, error: RemoteError) -> None:
    if error.traceback.strip():
        found.add_note("In the container:\n" + error.traceback.rstrip())
    limits = error.details.get("limits")
    for name, figures in limits.items() if isinstance(limits, dict) else ():
        if isinstance(figures, dict):
            said = ", ".join(f"{word} {value}" for word, value in figures.items())
            found.add_note(f"The container reached its limit of {name}: {said}")


def _with_id(found: BaseException, ended: Ended) -> BaseException:
    if ended.invocation_id:
        found.add_note(f"invocation {ended.invocation_id}")
    return found
