"""What the broker is asked to keep."""

from __future__ import annotations

from glowplug_contracts.streams import CALLS, OUTCOMES, RECORDS
from glowplug_runtime.topology import stream_config


def test_shards_share_the_brokers_memory():
    for stream in (CALLS, OUTCOMES):
        one, half = (stream_config(stream, 0, 1, shards=n)["max_bytes"] for n in (1, 2))
        assert (one, half) == (stream.max_bytes, stream.max_bytes // 2)
    assert stream_config(RECORDS, 0, 1, shards=2)["max_bytes"] == RECORDS.max_bytes
    memory = stream_config(RECORDS, 0, 1, "memory", shards=4)["max_bytes"]
    assert memory * 4 == stream_config(RECORDS, 0, 1, "memory")["max_bytes"]
