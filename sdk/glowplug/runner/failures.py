"""An exception as the caller sees it: type, message, the user's frames, and the exception itself.

Our own frames and the import machinery's are left out. The pickle carries the cause chain too (plain
pickling loses it) and is tried out before it leaves: one that can't be loaded helps nobody.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import TracebackException

OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
MESSAGE_CHARS_MAX = 32 * 1024
TRACEBACK_CHARS_MAX = 128 * 1024
PICKLED_BYTES_MAX = 256 * 1024
CHAIN_MAX = 20


class UnpicklableError(Exception):
    """Stands for an exception in a cause chain that can't travel; its text names the original."""


def remote_error(
    error: BaseException, code: str = "function.failed", *, source: str = "", pickled: bool = True
) -> dict[str, object]:
    """Return `error` as a RemoteError in JSON form.

    `source`: the user's directory; file names below it are shown relative to it.
    """
    kind = type(error)
    return {
        "code": code,
        "type": kind.__name__,
        "message": _message(error)[:MESSAGE_CHARS_MAX],
        "traceback": format_traceback(error, source),
        "pickled": _encoded(error) if pickled else None,
        "details": {"mro": [base.__name__ for base in kind.__mro__], "module": kind.__module__},
    }


def plain_error(code: str, kind: str, message: str, **details: object) -> dict[str, object]:
    """Return an error of the platform's, which has no traceback."""
    return {
        "code": code,
        "type": kind,
        "message": message[:MESSAGE_CHARS_MAX],
        "traceback": "",
        "pickled": None,
        "details": details,
    }


def format_traceback(error: BaseException, source: str = "") -> str:
    """Return the traceback with source lines, causes included, without frames of ours."""
    from traceback import TracebackException  # noqa: PLC0415 - 11 ms, only for failures

    try:
        # A deep recursion is folded by the formatter; the limit bounds what it has to look at.
        tree = TracebackException.from_exception(error, limit=-200, compact=True)
        _keep_users_frames(tree, source.rstrip(os.sep) + os.sep if source else "", set())
        text = "".join(tree.format())
    except Exception as broken:  # noqa: BLE001 - an exception whose own __str__ raises
        text = f"{type(error).__name__} (its traceback can't be shown: {type(broken).__name__})\n"
    if len(text) > TRACEBACK_CHARS_MAX:
        text = text[:TRACEBACK_CHARS_MAX] + "\n… (cut)\n"
    return text


def _keep_users_frames(tree: TracebackException, source: str, seen: set[int]) -> None:
    if id(tree) in seen:
        return
    seen.add(id(tree))
    kept = [frame for frame in tree.stack if not _is_ours(frame.filename)]
    for frame in kept:
        _ = frame.line  # read it from the file before the name is shortened
        if source and frame.filename.startswith(source):
            frame.filename = frame.filename[len(source) :]
    tree.stack[:] = kept
    for linked in (tree.__cause__, tree.__context__, *(getattr(tree, "exceptions", None) or ())):
        if linked is not None:
            _keep_users_frames(linked, source, seen)


def _is_ours(filename: str) -> bool:
    return filename.startswith((OURS, "<frozen importlib", "<frozen runpy"))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        return f"<{type(error).__name__} whose message can't be made>"


def _encoded(error: BaseException) -> str | None:
    """Return base64 of a pickle that rebuilds the exception with its causes, or None."""
    from binascii import b2a_base64  # noqa: PLC0415 - only for failures

    data = _pickled_chain(error)
    if data is None or len(data) > PICKLED_BYTES_MAX:
        return None
    return b2a_base64(data, newline=False).decode()


def _pickled_chain(error: BaseException) -> bytes | None:
    from glowplug.runner import payloads  # noqa: PLC0415 - payloads needs no failures

    if not _travels(error):
        return None
    try:
        return payloads.write_pickle(_Chained(error))
    except Exception:  # noqa: BLE001 - anything may happen in a user's __reduce__
        return None


def _travels(error: BaseException) -> bool:
    from _pickle import loads  # noqa: PLC0415 - only for failures

    from glowplug.runner import payloads  # noqa: PLC0415 - see above

    try:
        copy = loads(payloads.write_pickle(error))
    except Exception:  # noqa: BLE001 - see above
        return False
    return type(copy) is type(error) or type(copy).__name__ == type(error).__name__


class _Chained:
    """Pickles as a call of `rebuild`, so that loading it gives the exception itself."""

    def __init__(self, error: BaseException, left: int = CHAIN_MAX) -> None:
        self._error = error
        self._left = left

    def __reduce__(self) -> tuple[object, ...]:
        error = self._error
        cause, context = error.__cause__, error.__context__
        if cause is context:
            context = None
        return rebuild, (
            error
            if _travels(error)
            else UnpicklableError(f"{type(error).__name__}: {_message(error)}"),
            self._next(cause),
            self._next(context),
            error.__suppress_context__,
        )

    def _next(self, error: BaseException | None) -> _Chained | None:
        return _Chained(error, self._left - 1) if error is not None and self._left > 0 else None


def rebuild(
    error: BaseException,
    cause: BaseException | None,
    context: BaseException | None,
    suppress: bool,  # noqa: FBT001 - positional in pickles
) -> BaseException:
    """Return `error` with its chain; called by pickle on the caller's side (same package there)."""
    error.__cause__ = cause
    error.__context__ = context if context is not None else cause
    error.__suppress_context__ = suppress
    return error
