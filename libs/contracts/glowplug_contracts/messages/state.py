"""State that user code shares: items of maps and queues. Values are bytes that no service unpickles."""

from __future__ import annotations

from glowplug_contracts.messages import Message
from glowplug_contracts.messages.invocation import Format

VALUE_BYTES_MAX = 1024 * 1024
KEY_BYTES_MAX = 256
PUT_MANY_MAX = 1_000
TAKE_MANY_MAX = 1_000


class MapItem(Message, frozen=True, kw_only=True):
    """What a key of a map holds; the last message on the key's subject is the truth.

    Attributes:
        key: as the user spelled it; the subject carries its digest.
        written: names this write, so that its writer knows it again after a broken connection.
        expires_at: Unix seconds after which it is not there any more; 0 = never.
        gone: it was removed; the mark itself goes after a while.
    """

    key: str
    format: Format
    data: bytes
    written: str
    expires_at: float = 0.0
    gone: bool = False


class QueueItem(Message, frozen=True, kw_only=True):
    """One value in a queue. It is there until one getter has removed it."""

    format: Format
    data: bytes
    item_id: str = ""
