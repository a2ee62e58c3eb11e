"""The messages, one module per aggregate.

Rules: only add; every added field has a default; never change a field's meaning. A message holds
data and no behaviour beyond derived properties. Times named `*_at` are Unix seconds (float) of the
writer's clock: they are shown to people, and no decision between machines depends on them.
"""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every message: immutable, keyword-only, defaults left out of the wire."""
