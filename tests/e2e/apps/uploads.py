"""A function that every new file of a volume calls."""

from __future__ import annotations

from glowplug import Map, Volume, on_event

INBOX = Volume("inbox", "/inbox")
LIGHT = {"cpu": 0.01, "memory": 64, "keep_warm_seconds": 5}


@on_event("glowplug.volume.file.*", volumes=[INBOX], **LIGHT)
def arrived(event):
    text = (INBOX.path / event.data["path"]).read_text()
    Map("arrived").incr(f"{event.type.rpartition('.')[2]} {event.subject} {text}")
