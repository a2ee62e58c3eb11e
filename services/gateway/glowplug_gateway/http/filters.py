"""What a request says about which calls it wants: filters, cursor and limit, checked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import msgspec
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import check_id, check_name
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.record import DEAD_LETTER_STATES

from glowplug_gateway.calllist import CallFilter, CallRow
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.http.route import Exchange

LIST_MAX = 1_000
LIST_DEFAULT = 50
WORD_CHARS_MAX = 600
UNIX_MAX = 4e9

# state in HTTP, or status in the SDK -> states
WORDS: dict[str, tuple[State, ...]] = {
    "pending": (State.ACCEPTED,),
    "running": (State.RUNNING,),
    "retrying": (State.RETRY_WAIT,),
    "retry": (State.RETRY_WAIT,),
    "completed": (State.SUCCEEDED,),
    "complete": (State.SUCCEEDED,),
    "failed": (State.FAILED, State.DEAD, State.TIMED_OUT, State.EXPIRED),
    "error": (State.FAILED, State.DEAD),
    "timeout": (State.TIMED_OUT,),
    "cancelled": (State.CANCELLED,),
    "expired": (State.EXPIRED,),
    "dead": (State.DEAD,),
}


def limit_of(exchange: Exchange) -> int:
    """Return how many are wanted at once. Raises: InvalidRequestError."""
    return int(exchange.number("limit", LIST_DEFAULT, 1, LIST_MAX))


def calls_wanted(exchange: Exchange, catalog: Catalog) -> CallFilter:
    """Return what the query asks for. Raises: InvalidRequestError."""
    query = exchange.request.query
    words = [word for text in query.getall("state", ()) for word in text.split(",") if word]
    deployment = query.get("deployment") or query.get("queue") or ""
    kind = query.get("kind", "")
    if kind not in ("", "durable", "interactive"):
        raise _bad("kind", "durable or interactive")
    parent = query.get("parent", "")
    app = query.get("app", "")
    return CallFilter(
        deployments=deployments_of(exchange, catalog, deployment),
        name=deployment,
        app=app,
        app_deployments=tuple(
            one.deployment_id
            for one in catalog.deployments(exchange.workspace)
            if app and one.spec.app == app
        ),
        states=tuple(state.value for word in words for state in _states(word)),
        tag=_word(exchange, "tag"),
        parent=check_id("invocation", parent) if parent else "",
        since=exchange.number("since", 0.0, 0.0, UNIX_MAX),
        error_type=_word(exchange, "error_type"),
        durable=None if not kind else kind == "durable",
        before=_cursor(query.get("cursor", "")),
    )


def letters_wanted(exchange: Exchange, catalog: Catalog) -> CallFilter:
    """Return which dead letters the query asks for. Raises: InvalidRequestError."""
    wanted = calls_wanted(exchange, catalog)
    letters = {state.value for state in DEAD_LETTER_STATES}
    if not letters.issuperset(wanted.states):
        raise _bad("state", "failed, error, dead, timeout or expired")
    replayed = exchange.request.query.get("replayed", "0")
    if replayed not in ("0", "1", "all"):
        raise _bad("replayed", "0, 1 or all")
    return msgspec.structs.replace(
        wanted, letters=True, durable=None, replayed={"0": False, "1": True}.get(replayed)
    )


def cursor_after(rows: Sequence[CallRow], limit: int) -> str | None:
    """Return where the next page begins, None if this one was the last."""
    if len(rows) < limit:
        return None
    text = f"{rows[-1].at!r} {rows[-1].invocation_id}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def _cursor(text: str) -> tuple[float, str] | None:
    if not text:
        return None
    try:
        at, _, invocation = base64.urlsafe_b64decode(text[:WORD_CHARS_MAX]).decode().partition(" ")
        return float(at), check_id("invocation", invocation)
    except (ValueError, binascii.Error, InvalidRequestError):
        raise _bad("cursor", "what an earlier page said") from None


def deployments_of(exchange: Exchange, catalog: Catalog, reference: str) -> tuple[str, ...]:
    """Return the versions that an id or a name stands for. Raises: InvalidRequestError."""
    if reference.startswith("dep_"):
        return (check_id("deployment", reference),)
    if not reference:
        return ()
    check_name(reference)
    return tuple(
        one.deployment_id
        for one in catalog.deployments(exchange.workspace)
        if one.spec.name == reference
    )


def _states(word: str) -> tuple[State, ...]:
    states = WORDS.get(word.lower())
    if states is None:
        raise _bad("state", ", ".join(WORDS))
    return states


def _word(exchange: Exchange, name: str) -> str:
    text = exchange.request.query.get(name, "")
    if len(text) > WORD_CHARS_MAX:
        raise _bad(name, f"at most {WORD_CHARS_MAX} characters")
    return text


def _bad(name: str, wanted: str) -> InvalidRequestError:
    return InvalidRequestError(
        "request.invalid", f"{name} must be {wanted}", details={"fields": {name: wanted}}
    )
