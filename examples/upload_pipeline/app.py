"""A file appears in a volume, its language is told, and a webhook hears of it.

    glowplug deploy examples/upload_pipeline/app.py
    glowplug volume cp letter.txt inbox:letter.txt

    file in the volume `inbox` ──event──▶ identify ──event──▶ announce ──POST──▶ your webhook

`identify` refuses a file that is no text (`poison.txt` of the test): after its retries the event is a dead letter
(`glowplug dlq list --queue identify`), and when the function is fixed and deployed again it is replayed
(`glowplug dlq replay --queue identify`). The model is a few words per language, so that the example needs no package;
examples/language_id has a real one.
"""

from __future__ import annotations

import os
from urllib.request import Request, urlopen

from glowplug import Event, TaskPolicy, Volume, on_event, send_event

INBOX = Volume("inbox", "/inbox")
# Set by the test to "strict" and then to "lenient": the bug, and its fix.
DECODING = os.environ.get("PIPELINE_DECODING", "strict")
WEBHOOK = os.environ.get("PIPELINE_WEBHOOK", "")
WORDS = {
    "en": {"the", "and", "is", "of", "at", "on", "a", "even"},
    "de": {"der", "die", "das", "und", "ist", "auch", "an", "einem"},
    "fr": {"le", "la", "les", "et", "est", "de", "par", "un"},
}


@on_event(
    ["glowplug.volume.file.created", "glowplug.volume.file.changed"],
    filter={
        "all": [{"exact": {"source": "glowplug:volume/inbox"}}, {"suffix": {"subject": ".txt"}}]
    },
    volumes=[INBOX],
    task_policy=TaskPolicy(max_retries=1, retry_delay_seconds=0.1),
    env={"PIPELINE_DECODING": DECODING},
    cpu=0.01,
    memory=64,
)
def identify(event: Event) -> str:
    """Tell a file's language, and send an event with it."""
    path = event.data["path"]
    errors = "replace" if os.environ["PIPELINE_DECODING"] == "lenient" else "strict"
    text = (INBOX.path / path).read_bytes().decode("utf-8", errors)
    words = set(text.lower().replace(".", " ").replace(",", " ").split())
    language = max(WORDS, key=lambda name: len(words & WORDS[name]))
    send_event(
        "com.example.language.identified",
        {"path": path, "language": language},
        source="/pipeline",
        subject=path,
        id=event.id,  # a second attempt sends the same event, and it is delivered once
    )
    return language


@on_event(
    "com.example.language.identified",
    retries=3,
    env={"PIPELINE_WEBHOOK": WEBHOOK},
    cpu=0.01,
    memory=64,
)
def announce(event: Event) -> None:
    """Tell a webhook; if it is away, try again."""
    url = os.environ["PIPELINE_WEBHOOK"]
    if not url:
        print(f"{event.subject} is in {event.data['language']}")
        return
    body = f'{{"path": "{event.subject}", "language": "{event.data["language"]}"}}'.encode()
    with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=10):
        pass
