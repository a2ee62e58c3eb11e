"""Calls the user's function for one input and reports how it ended: the part all lanes share."""

from __future__ import annotations

import time

from glowplug.runner import failures, payloads, signature
from glowplug.runner.context import Context
from glowplug.runner.invocation import CancelledError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from glowplug.runner.capture import Capture
    from glowplug.runner.channel import Channel
    from glowplug.runner.frames import Header
    from glowplug.runner.invocation import Invocation


class Caller:
    """Knows the function, how to give it its arguments, and where results go."""

    def __init__(
        self,
        channel: Channel,
        capture: Capture,
        function: Callable[..., object],
        on_start_value: object,
        init: Header,
    ) -> None:
        self.channel = channel
        self.capture = capture
        self.function = function
        self._context_at = signature.context_position(function)
        self.on_start_value = on_start_value
        self.on_exit: Callable[..., object] | None = None
        self._init = init
        self._outputs = init.get("outputs_schema")
        self.phases: dict[str, float] = {}

    def call(self, invocation: Invocation) -> object:
        """Return what the function returned; a coroutine or generator has not run yet then."""
        if invocation.method:
            raise NotImplementedError("classes with methods are not yet supported")
        args, kwargs, takes = payloads.read_arguments(invocation.format, invocation.body)
        invocation.body = b""  # large arguments need not be held twice
        if invocation.pass_as:
            args = (payloads.read_passed(invocation.pass_as, invocation.passed), *args)
            invocation.passed = []
        if takes:
            from glowplug.runner import takes as ways  # noqa: PLC0415 - events and whole requests

            args = ways.convert(takes, args)
            if takes == "events":
                invocation.events = args[0]  # type: ignore[assignment]
            if takes == "request":
                name = str(self._init.get("name", ""))
                return self.function(*args, ways.RequestContext(self._context(invocation), name))
        at = self._context_at
        if at is not None and "context" not in kwargs and len(args) <= at:
            invocation.context = kwargs["context"] = self._context(invocation)
        return self.function(*args, **kwargs)

    def send_item(self, invocation: Invocation, number: int, item: object) -> None:
        """Send one value of a generator; the credit was waited for."""
        body = payloads.write_result(invocation.format, item)
        header = {
            "type": "item",
            "id": invocation.id,
            "index": invocation.index,
            "number": number,
            "format": invocation.format,
        }
        self.channel.send(header, body)

    def succeed(self, invocation: Invocation, value: object, started: float, items: int) -> None:
        """Report the result, or why it can't be sent."""
        if invocation.events is not None and (failed := _failed_items(invocation, value)):
            self._report_failed(invocation, self._items_failed(invocation, failed, None), started)
            return
        try:
            if self._outputs:
                from glowplug.runner.outputs import check_outputs  # noqa: PLC0415 - only if asked

                value = check_outputs(value, self._outputs)
            body = payloads.write_result(invocation.format, value)
        except Exception as error:  # noqa: BLE001 - whatever the user's __reduce__ raises
            self.fail(invocation, error, started)
            return
        invocation.reported = True
        self._last_words(invocation)
        self.channel.send(self._ended(invocation, "succeeded", started, items), body)

    def fail(self, invocation: Invocation, error: BaseException, started: float) -> None:
        """Report what the function raised."""
        self._report_failed(invocation, self._error(invocation, error), started)

    def _report_failed(
        self, invocation: Invocation, error: dict[str, object], started: float
    ) -> None:
        invocation.reported = True
        self._last_words(invocation)
        header = self._ended(invocation, "failed", started, 0)
        header["error"] = error
        self.channel.send(header)

    def _last_words(self, invocation: Invocation) -> None:
        """What was printed or said of progress must be out before the result."""
        self.capture.finish(invocation.key)
        if invocation.context is not None:
            invocation.context.flush()

    def _say_progress(self, invocation: Invocation, fraction: float, message: str) -> None:
        self.channel.send(
            {
                "type": "progress",
                "id": invocation.id,
                "index": invocation.index,
                "fraction": fraction,
                "message": message,
            }
        )

    def _error(self, invocation: Invocation, error: BaseException) -> dict[str, object]:
        if invocation.cancelled and isinstance(error, CancelledError):
            return failures.plain_error(
                "invocation.cancelled", "CancelledError", "the call was cancelled"
            )
        source = str(self._init.get("source") or "")
        named = getattr(error, "failed", None)
        if invocation.events is not None and type(error).__name__ == "BatchFailedError" and named:
            from glowplug.runner import takes as ways  # noqa: PLC0415 - loaded, with the events

            failed = ways.indexes_of(named, invocation.events)
            return self._items_failed(invocation, failed, error)
        if isinstance(error, payloads.BadResultError):
            return failures.remote_error(error, "function.bad_result", pickled=False)
        if isinstance(error, payloads.BadArgumentsError):
            return failures.remote_error(error, "function.failed", source=source, pickled=False)
        return failures.remote_error(error, source=source)

    def _items_failed(
        self, invocation: Invocation, failed: tuple[int, ...], error: BaseException | None
    ) -> dict[str, object]:
        from glowplug.runner import takes as ways  # noqa: PLC0415 - loaded, with the events

        source = str(self._init.get("source") or "")
        return ways.items_failed(failed, invocation.events or [], error, source)

    def _ended(
        self, invocation: Invocation, state: str, started: float, items: int
    ) -> dict[str, object]:
        return {
            "type": "result",
            "id": invocation.id,
            "index": invocation.index,
            "state": state,
            "format": invocation.format,
            "run_ms": round((time.perf_counter() - started) * 1000, 3),
            "items": items,
        }

    def _context(self, invocation: Invocation) -> Context:
        timeout = invocation.timeout_s or float(self._init.get("timeout_s") or 0)
        return Context(
            container_id=str(self._init.get("container_id", "")),
            stub_id=str(self._init.get("deployment_id", "")),
            task_id=invocation.id,
            attempt=invocation.attempt,
            timeout=timeout if timeout > 0 else None,
            on_start_value=self.on_start_value,
            say=lambda fraction, message: self._say_progress(invocation, fraction, message),
            scheduled_for=invocation.scheduled_for,
        )


def _failed_items(invocation: Invocation, value: object) -> tuple[int, ...] | None:
    from glowplug.runner import takes as ways  # noqa: PLC0415 - loaded, with the events

    return ways.failed_of(value, invocation.events or [])
