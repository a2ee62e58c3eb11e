"""What the gateway can be told, beyond what every service can."""

from __future__ import annotations

from glowplug_runtime.settings import Settings

MIB = 1024 * 1024


class GatewaySettings(Settings, frozen=True, kw_only=True):
    """The gateway's settings.

    Attributes:
        port: 1994 unless told otherwise; 0 takes a free one.
        token_file: file with a token that is made known at start, if it is not yet; "" for none.
        body_bytes_max: larger request bodies are refused with 413; blobs have their own route and bound.
        blob_bytes_max: of one uploaded blob.
        in_hand_max: inputs that one workspace may have waiting at this gateway; more costs memory.
        drain_s: seconds that requests in hand get after SIGTERM; the supervisor must wait longer.
        errors_shown: whether /endpoint answers type and message of exceptions, or only the id.
        spans_kept, segments_kept, calls_kept: rows of the read model; older ones go first.
    """

    port: int = 1994
    token_file: str = ""
    body_bytes_max: int = 16 * MIB
    blob_bytes_max: int = 16 * 1024 * MIB
    in_hand_max: int = 100_000
    drain_s: float = 10.0
    errors_shown: bool = True
    spans_kept: int = 200_000
    segments_kept: int = 50_000
    calls_kept: int = 100_000
