"""Which of a service's replicas to ask: the same one for the same name, another one when it does not answer.

Whoever asks for the same thing asks the replica that has it in its cache (rendezvous hashing). One that just failed is
passed over until its beats have told whether it lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from glowplug_contracts.rendezvous import ranked

PASSED_OVER_S = 5.0

N = TypeVar("N", bound=str)


class Replicas:
    """See the module.

    Args:
        urls: of the replicas that are ready.
        now: monotonic seconds.
    """

    def __init__(
        self, urls: Callable[[], Sequence[str]], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._urls = urls
        self._now = now
        self._failed: dict[str, float] = {}

    def urls(self) -> list[str]:
        """Return those that are ready, whoever failed."""
        return list(self._urls())

    def choose(self, name: str) -> str | None:
        """Return whom to ask for something; None if nobody is ready."""
        order = self._order(name)
        return order[0] if order else None

    def grouped(self, names: Iterable[N]) -> list[list[N]]:
        """Return names in groups to ask one replica for each; one group while nobody is ready."""
        groups: dict[str | None, list[N]] = {}
        for name in names:
            groups.setdefault(self.choose(name), []).append(name)
        return list(groups.values())

    def failed(self, url: str) -> None:
        """Pass a replica over for a while: it did not answer."""
        self._failed[url] = self._now() + PASSED_OVER_S

    def _order(self, name: str) -> list[str]:
        now = self._now()
        self._failed = {url: until for url, until in self._failed.items() if until > now}
        urls = self._urls()
        # If all of them failed, one of them may be back.
        return ranked(name, [url for url in urls if url not in self._failed] or urls)
