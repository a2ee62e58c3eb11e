"""What a caller says about its durable work, read from its request and checked. Pure."""

from __future__ import annotations

import sys

import msgspec
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.ids import check_id
from glowplug_contracts.messages.http import PutOptions
from glowplug_contracts.messages.record import IDEMPOTENCY_WINDOW_S_MAX

from glowplug_gateway.inputs import invalid

PRIORITY_MAX = 10
LATER_S_MAX = 366 * 86_400.0
KEEP_S_MAX = 366 * 86_400.0
KEY_CHARS_MAX = 256
LIMIT_MAX = 100_000
TAGS_MAX = 32
TAG_CHARS_MAX = 256
OPTIONS_CHARS_MAX = 8_000
URL_CHARS_MAX = 2_000
NO_TIMEOUT = -1

_NAMES = frozenset(PutOptions.__struct_fields__)


def read_options(header: str | None, idempotency_key: str | None) -> PutOptions:
    """Return what a request's headers say about its work, checked. Raises: InvalidRequestError."""
    options = PutOptions()
    if header is not None:
        if len(header) > OPTIONS_CHARS_MAX:
            raise invalid({"options": f"may have {OPTIONS_CHARS_MAX} characters"})
        try:
            raw = msgspec.json.decode(header)
            if isinstance(raw, dict) and (unknown := raw.keys() - _NAMES):
                raise invalid({f"options.{name}": "nobody knows this" for name in unknown})
            options = msgspec.convert(raw, PutOptions)
        except UNREADABLE as err:
            raise invalid({"options": f"must be a JSON object: {err}"}) from err
    if idempotency_key:
        options = msgspec.structs.replace(options, idempotency_key=idempotency_key)
    check_options(options)
    return options


def check_options(options: PutOptions) -> None:
    """Check what a caller says about its work. Raises: InvalidRequestError naming every wrong field."""
    wrong = _wrong_numbers(options) | _wrong_pairs(options)
    wrong |= _wrong_texts(options)
    if wrong:
        raise invalid({f"options.{name}": reason for name, reason in wrong.items()})
    if options.parent:
        check_id("invocation", options.parent)


def _wrong_numbers(options: PutOptions) -> dict[str, str]:
    wrong = {
        name: f"must be a number from {lowest:g} to {highest:g}"
        for name, lowest, highest in _RANGES
        if (value := getattr(options, name)) is not None and not lowest <= value <= highest
    }
    timeout_s = options.timeout_s
    if timeout_s is not None and timeout_s <= 0 and timeout_s != NO_TIMEOUT:
        wrong["timeout_s"] = f"must be above 0, or {NO_TIMEOUT} for none"
    if options.ttl_s == 0:
        wrong["ttl_s"] = "must be above 0"
    return wrong


def _wrong_pairs(options: PutOptions) -> dict[str, str]:
    wrong = {}
    if options.delay_s is not None and options.eta is not None:
        wrong["eta"] = "give delay_s or eta, not both"
    if options.fifo_key and options.concurrency_key:
        wrong["concurrency_key"] = "give fifo_key or concurrency_key, not both"
    if options.fifo_key and (options.delay_s or options.eta):
        wrong["fifo_key"] = "work in order can't have a time of its own"
    return wrong


def _wrong_texts(options: PutOptions) -> dict[str, str]:
    wrong = {
        name: f"may have {KEY_CHARS_MAX} characters"
        for name in ("idempotency_key", "concurrency_key", "fifo_key", "fingerprint")
        if len(getattr(options, name)) > KEY_CHARS_MAX
    }
    if len(options.tags) > TAGS_MAX:
        wrong["tags"] = f"may be {TAGS_MAX}"
    for name, value in options.tags.items():
        if not 0 < len(name) <= TAG_CHARS_MAX or len(value) > TAG_CHARS_MAX:
            wrong["tags"] = f"a tag's name and value may have {TAG_CHARS_MAX} characters"
    url = options.callback_url
    if url and (len(url) > URL_CHARS_MAX or not url.startswith(("http://", "https://"))):
        wrong["callback_url"] = "must be an http:// or https:// URL"
    return wrong


_RANGES = (
    ("priority", -PRIORITY_MAX, PRIORITY_MAX),
    ("delay_s", 0.0, LATER_S_MAX),
    ("eta", 0.0, sys.float_info.max),
    ("ttl_s", 0.0, LATER_S_MAX),
    ("timeout_s", -1.0, LATER_S_MAX),
    ("idempotency_window_s", 1.0, IDEMPOTENCY_WINDOW_S_MAX),
    ("concurrency_limit", 1, LIMIT_MAX),
    ("keep_result_s", 0.0, KEEP_S_MAX),
)
